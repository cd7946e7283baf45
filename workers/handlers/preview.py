"""Handler for preview jobs, which show training data as a fine-tune would encode it."""

from baichuan_core.finetuning import DatasetPreview, preview_dataset
from jobs.results import PreviewResult
from jobs.results.preview import MAX_SHOWN_TOKENS, LengthCount, PreviewExample, PreviewToken
from jobs.specs import PreviewSpec
from workers.handlers.contract import HandlerContext, HandlerOutcome


def estimate_output_bytes(_spec: PreviewSpec, _checkpoint_bytes: int) -> int:
    """Return 0, because nothing is written."""
    return 0


def run(spec: PreviewSpec, context: HandlerContext) -> HandlerOutcome[PreviewResult]:
    """Encode the data as a fine-tune would, and return a summary."""
    preview = preview_dataset(
        context.models["model"],
        context.files["training_file"],
        max_length=spec.max_length,
        examples=spec.examples,
        max_examples=spec.max_examples,
    )
    return HandlerOutcome(_summarize(preview))


def _summarize(preview: DatasetPreview) -> PreviewResult:
    return PreviewResult(
        data_format=preview.format,
        chat_format=preview.chat_format,
        examples=[
            PreviewExample(
                length=len(example),
                tokens=[
                    PreviewToken(id=token.id, piece=token.piece, trained=token.trained)
                    for token in example[:MAX_SHOWN_TOKENS]
                ],
            )
            for example in preview.examples
        ],
        count=preview.count,
        tokens=preview.tokens,
        trained_tokens=preview.trained_tokens,
        dropped_examples=preview.dropped,
        truncated_examples=preview.truncated,
        lengths=[LengthCount(shortest=low, longest=high, examples=count) for low, high, count in preview.lengths],
        complete=preview.complete,
    )
