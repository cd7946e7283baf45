"""Generate completions."""

from dataclasses import asdict

from baichuan_core.generation import GenerationOptions, GenerationRequest, generate, read_requests
from jobs.specs import GenerateSpec
from workers.handlers.contract import Context, Outcome

COMPLETIONS = "completions.jsonl"


def output_bytes(_spec: GenerateSpec, _checkpoint_bytes: int) -> int:
    """Texts are small."""
    return 0


def run(spec: GenerateSpec, context: Context) -> Outcome:
    """Write completions.jsonl, one line a request in the order given."""
    options = GenerationOptions(
        max_new_tokens=spec.max_new_tokens,
        temperature=spec.temperature,
        top_k=spec.top_k,
        top_p=spec.top_p,
        repetition_penalty=spec.repetition_penalty,
        seed=spec.seed,
        stop=tuple(spec.stop),
        batch_size=spec.batch_size,
        dtype=spec.dtype,
    )
    report = generate(
        context.models["model"],
        _requests(spec, context),
        context.output / COMPLETIONS,
        options,
        adapter=context.models.get("adapter"),
        on_progress=context.report,
    )
    return Outcome(asdict(report) | {"tokens_per_second": report.tokens_per_second})


def _requests(spec: GenerateSpec, context: Context) -> list[GenerationRequest]:
    if spec.prompts is not None:
        return [GenerationRequest(prompt=prompt) for prompt in spec.prompts]
    if spec.conversations is not None:
        return [
            GenerationRequest(messages=[{"role": turn.role, "content": turn.content} for turn in turns])
            for turns in spec.conversations
        ]
    return read_requests(context.files["input_file"])
