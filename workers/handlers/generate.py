"""Generate completions."""

from dataclasses import asdict
from pathlib import Path

from baichuan_core.generation import GenerationOptions, GenerationRequest, generate, read_requests
from jobs.results import GenerateResult
from jobs.specs import GenerateSpec
from workers.handlers.contract import Context, Outcome

COMPLETIONS = "completions.jsonl"
FINISHED_LINES = "completions.partial.jsonl"


def output_bytes(_spec: GenerateSpec, _checkpoint_bytes: int) -> int:
    """Texts are small."""
    return 0


def run(spec: GenerateSpec, context: Context) -> Outcome[GenerateResult]:
    """Write completions.jsonl, one line a completion in the order given; lines of earlier attempts are taken over."""
    options = GenerationOptions(
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
    report = generate(
        context.models["model"],
        _requests(spec.with_input(context.files), context),
        context.output / COMPLETIONS,
        options,
        adapter=context.models.get("adapter"),
        partial=context.checkpoints / FINISHED_LINES,
        resume_from=_finished_lines(context),
        models=context.loaded,
        on_progress=context.report,
    )
    return Outcome(GenerateResult(**asdict(report), tokens_per_second=report.tokens_per_second))


def _finished_lines(context: Context) -> Path | None:
    files = (folder / FINISHED_LINES for folder in context.earlier_checkpoints)
    return next((file for file in files if file.is_file()), None)


def _requests(spec: GenerateSpec, context: Context) -> list[GenerationRequest]:
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
