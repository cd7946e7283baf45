"""Handler for generate jobs, which generate completions."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from baichuan_core.errors import PromptError
from baichuan_core.generation import (
    GenerationOptions,
    GenerationReport,
    GenerationRequest,
    find_unanswerable_requests,
    generate,
    read_batch,
    read_requests,
)
from jobs.inputs import normalize_batch_line
from jobs.results import GenerateResult
from jobs.specs import GenerateSpec, OpenAIBatch, StoredGenerateSpec
from workers.handlers.background_chats import answering_chats
from workers.handlers.batch_files import BatchRequests, make_unanswered_result, write_batch_results
from workers.handlers.contract import HandlerContext, HandlerOutcome

COMPLETIONS_FILE = "completions.jsonl"
FINISHED_LINES_FILE = "completions.partial.jsonl"


def estimate_output_bytes(_spec: GenerateSpec, _checkpoint_bytes: int) -> int:
    """Return 0, because text takes little space."""
    return 0


def run(spec: GenerateSpec, context: HandlerContext) -> HandlerOutcome[GenerateResult]:
    """Write completions.jsonl, one line per completion, in prompt order, reusing completions of earlier attempts.

    For an OpenAI API batch, write its output and error files instead.
    """
    if isinstance(spec, StoredGenerateSpec) and spec.batch is not None:
        return _run_batch(spec, spec.batch, context)
    report = _generate(
        spec, _read_requests(spec.with_input(context.files), context), context.output / COMPLETIONS_FILE, context
    )
    return HandlerOutcome(GenerateResult(**asdict(report), tokens_per_second=report.tokens_per_second))


def _run_batch(spec: GenerateSpec, form: OpenAIBatch, context: HandlerContext) -> HandlerOutcome[GenerateResult]:
    batch = BatchRequests(read_batch(context.files["input_file"], normalize_batch_line))
    completions = context.checkpoints / COMPLETIONS_FILE
    try:
        report = _generate(spec, batch.requests, completions, context)
    except PromptError:
        model, adapter = context.models["model"], context.models.get("adapter")
        batch.reject(find_unanswerable_requests(model, batch.requests, _make_options(spec), adapter=adapter))
        if not batch.requests:
            write_batch_results(context.output, batch, form, ())
            return HandlerOutcome(make_unanswered_result(batch))
        report = _generate(spec, batch.requests, completions, context)
    with completions.open(encoding="utf-8") as lines:
        write_batch_results(context.output, batch, form, lines)
    completions.unlink()
    figures = asdict(report) | {"tokens_per_second": report.tokens_per_second, "rejected": len(batch.errors)}
    return HandlerOutcome(GenerateResult(**figures))


def _generate(
    spec: GenerateSpec, requests: Sequence[GenerationRequest], output: Path, context: HandlerContext
) -> GenerationReport:
    return generate(
        context.models["model"],
        requests,
        output,
        _make_options(spec),
        adapter=context.models.get("adapter"),
        partial=context.checkpoints / FINISHED_LINES_FILE,
        resume_from=_find_finished_lines(context),
        models=context.loaded,
        on_progress=context.report,
        alongside=lambda generator: answering_chats(generator, context),
    )


def _make_options(spec: GenerateSpec) -> GenerationOptions:
    return GenerationOptions(
        max_new_tokens=spec.max_new_tokens,
        temperature=spec.temperature,
        top_k=spec.top_k,
        top_p=spec.top_p,
        repetition_penalty=spec.repetition_penalty,
        seed=spec.seed,
        stop=tuple(spec.stop),
        n=spec.n,
        logprobs=spec.logprobs,
        engine=spec.engine,
        batch_size=spec.batch_size,
        dtype=spec.dtype,
    )


def _find_finished_lines(context: HandlerContext) -> Path | None:
    files = (folder / FINISHED_LINES_FILE for folder in context.earlier_checkpoints)
    return next((file for file in files if file.is_file()), None)


def _read_requests(spec: GenerateSpec, context: HandlerContext) -> list[GenerationRequest]:
    if spec.prompts is not None:
        return [GenerationRequest(prompt=text, place=f"prompts[{i}]") for i, text in enumerate(spec.prompts)]
    if spec.conversations is not None:
        return [
            GenerationRequest(
                messages=[{"role": turn.role, "content": turn.content} for turn in turns], place=f"conversations[{i}]"
            )
            for i, turns in enumerate(spec.conversations)
        ]
    return read_requests(context.files["input_file"])
