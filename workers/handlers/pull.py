"""Handler for pull jobs, which download a model from the Hugging Face Hub or a mirror."""

from baichuan_core.hub import Hub, pull
from jobs.results import PullResult
from jobs.specs import PullSpec
from workers.handlers.contract import HandlerContext, HandlerOutcome
from workers.handlers.produced import describe_produced_model

DOWNLOADS_FOLDER = "download"
MAX_SHOWN_FILES = 200


def estimate_output_bytes(_spec: PullSpec, _checkpoint_bytes: int) -> int:
    """Return 0, because only the hub knows the size; the engine checks it once the hub has answered."""
    return 0


def run(spec: PullSpec, context: HandlerContext) -> HandlerOutcome[PullResult]:
    """Write the downloaded checkpoint as a model, reusing the files that earlier attempts have downloaded."""
    report = pull(
        spec.repository,
        context.model_output,
        revision=spec.revision,
        downloads=context.checkpoints / DOWNLOADS_FOLDER,
        earlier=[folder / DOWNLOADS_FOLDER for folder in context.earlier_checkpoints],
        hub=Hub(token=context.hub_token),
        reserve_bytes=context.reserve_bytes,
        on_progress=context.report,
    )
    result = PullResult(
        endpoint=report.endpoint,
        repository=report.repository,
        revision=report.revision,
        commit=report.commit,
        files=report.files,
        total_bytes=report.bytes,
        received_bytes=report.received_bytes,
        skipped=len(report.skipped),
        skipped_files=list(report.skipped[:MAX_SHOWN_FILES]),
    )
    return HandlerOutcome(result, describe_produced_model(context))
