"""`baichuan estimate`: estimate offline how much memory each operation needs."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from cli.errors import CommandError
from cli.exit_codes import ExitCode
from cli.options import JsonOption
from cli.output import print_json_list, print_table, print_text
from footprint import (
    GIB,
    PRECISIONS,
    PRESETS,
    FinetuningMethod,
    Footprint,
    ModelShape,
    Precision,
    ShapeError,
    TrainingSettings,
    estimate_calibration,
    estimate_conversion,
    estimate_finetuning,
    estimate_inference,
    estimate_quantization,
    estimate_scoring,
    read_config,
)

DEFAULT_MODELS = ("baichuan2-7b", "baichuan2-13b")
CALIBRATION_SEQUENCES = 32  # the default for quantize jobs
COLUMNS = ("OPERATION", "HELD AS", "WEIGHTS", "CACHE", "ACTIVATIONS", "GRADIENTS", "ADAMW", "TOTAL")


Operation = Literal["generate", "evaluate", "finetune", "quantize", "convert"]
Quantization = Literal["none", "int8", "nf4", "fp4"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
METHODS: tuple[FinetuningMethod, ...] = get_args(FinetuningMethod)


@dataclass(frozen=True, slots=True)
class EstimateRequest:
    """The operations, methods and precisions to estimate for each model (None means all), and further settings."""

    operation: Operation | None
    method: FinetuningMethod | None
    precisions: Sequence[Precision] | None
    batch: int
    tokens: int | None
    lora_rank: int
    gradient_checkpointing: bool

    @property
    def quantizes_head(self) -> bool:
        """Whether the embedding and output head are quantized."""
        return self.precisions is not None and self.precisions[0].quantize_head


@dataclass(frozen=True, slots=True)
class EstimateRow:
    """One row of the estimates table."""

    model: str
    operation: str
    precision: Precision
    needs: Footprint

    def format_cells(self, memory: float | None) -> tuple[str, ...]:
        """Return the cells of the row, with sizes in GiB."""
        parts = (
            self.needs.weights,
            self.needs.cache,
            self.needs.activations,
            self.needs.gradients,
            self.needs.optimizer,
        )
        shown = [f"{part / GIB:.2f}" if part else "-" for part in parts]
        fits = [] if memory is None else ["yes" if self.needs.total <= memory * GIB else "no"]
        return (self.operation, self.precision.label, *shown, f"{self.needs.total / GIB:.2f}", *fits)

    def as_json(self, memory: float | None) -> dict[str, Any]:
        """Return the estimate for `--json`, in bytes."""
        return {
            "model": self.model,
            "operation": self.operation,
            "precision": asdict(self.precision),
            **asdict(self.needs),
            "total": self.needs.total,
            "fits": None if memory is None else self.needs.total <= memory * GIB,
        }


def estimate(  # noqa: PLR0913 - one parameter per option
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...", help=f"A checkpoint directory, a config.json, or one of: {', '.join(PRESETS)}."
        ),
    ] = None,
    *,
    operation: Annotated[Operation | None, typer.Option(help="Show only this operation.")] = None,
    method: Annotated[FinetuningMethod | None, typer.Option(help="Show only fine-tuning with this method.")] = None,
    quantization: Annotated[Quantization | None, typer.Option(help="Show only this precision or quantization.")] = None,
    quantize_head: Annotated[
        bool,
        typer.Option(
            "--quantize-head", help="Quantize the embedding and output head to 8 bits; requires --quantization."
        ),
    ] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Number of prompts or examples processed at the same time.")
    ] = 1,
    tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens per prompt or example, including the answer. Default: the context length."),
    ] = None,
    lora_rank: Annotated[int, typer.Option(min=1, help="Rank of the trained LoRA adapter.")] = 8,
    gradient_checkpointing: Annotated[
        bool, typer.Option(help="Whether training recomputes activations to save memory.")
    ] = True,
    memory: Annotated[float | None, typer.Option(min=0, help="Show which operations fit into this many GiB.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate how much memory a model needs for each operation, without a service, a GPU or weights."""
    if quantize_head and quantization is None:
        raise CommandError("--quantize-head requires --quantization", ExitCode.USAGE)
    precisions = None if quantization is None else (_to_precision(quantization, quantize_head=quantize_head),)
    if method is not None and operation not in (None, "finetune"):
        raise CommandError("--method requires --operation finetune", ExitCode.USAGE)
    chosen: Operation | None = "finetune" if method is not None else operation
    request = EstimateRequest(chosen, method, precisions, batch_size, tokens, lora_rank, gradient_checkpointing)
    answers = {model: list(_estimate_rows(model, request)) for model in models or DEFAULT_MODELS}
    if as_json:
        print_json_list([row.as_json(memory) for rows in answers.values() for row in rows])
        return
    for model, rows in answers.items():
        print_text(_format_headline(model, _read_shape_and_precision(model)[0], request))
        columns = COLUMNS if memory is None else (*COLUMNS, f"FITS {memory:g}")
        print_table(columns, [row.format_cells(memory) for row in rows])


def _to_precision(held: Quantization, *, quantize_head: bool) -> Precision:
    return Precision(quantization=None if held == "none" else held, quantize_head=quantize_head)


def _format_headline(model: str, shape: ModelShape, request: EstimateRequest) -> str:
    positions = {"rope": "RoPE", "alibi": "ALiBi"}[shape.position_embedding]
    tokens = request.tokens or shape.context_length
    billions = shape.parameter_count / 1e9
    return f"\n{model}: {billions:.2f} billion parameters, {positions}; batch {request.batch} of {tokens} tokens; GiB"


def _read_shape_and_precision(model: str) -> tuple[ModelShape, Precision]:
    if model in PRESETS:
        return PRESETS[model], Precision()
    path = Path(model)
    if not path.exists():
        message = f"{model} is not a file, a directory or one of {', '.join(PRESETS)}"
        raise CommandError(message, ExitCode.USAGE)
    try:
        config = read_config(path)
        return ModelShape.from_config(config), Precision.from_config(config)
    except ShapeError as error:
        raise CommandError(str(error)) from error


def _estimate_rows(model: str, request: EstimateRequest) -> Iterator[EstimateRow]:
    shape, stored = _read_shape_and_precision(model)
    for operation in (request.operation,) if request.operation else OPERATIONS:
        match operation:
            case "generate" | "evaluate":
                yield from _estimate_inference_rows(model, operation, shape, stored, request)
            case "finetune":
                yield from _estimate_finetuning_rows(model, shape, stored, request)
            case "quantize" if stored.quantization is None:
                yield EstimateRow(
                    model, operation, stored, estimate_quantization(shape, quantize_head=request.quantizes_head)
                )
                yield EstimateRow(
                    model, "calibrate", stored, estimate_calibration(shape, sequences=CALIBRATION_SEQUENCES)
                )
            case "quantize":
                continue  # a quantized model cannot be quantized again
            case "convert":
                yield EstimateRow(model, operation, stored, estimate_conversion())


def _estimate_inference_rows(
    model: str,
    operation: Literal["generate", "evaluate"],
    shape: ModelShape,
    stored: Precision,
    request: EstimateRequest,
) -> Iterator[EstimateRow]:
    batch, tokens = request.batch, request.tokens or shape.context_length
    for precision in _choose_precisions(stored, request):
        if operation == "generate":
            yield EstimateRow(
                model, operation, precision, estimate_inference(shape, precision, batch=batch, tokens=tokens)
            )
        else:
            yield EstimateRow(model, operation, precision, estimate_scoring(shape, precision, tokens=batch * tokens))


def _estimate_finetuning_rows(
    model: str, shape: ModelShape, stored: Precision, request: EstimateRequest
) -> Iterator[EstimateRow]:
    for method in (request.method,) if request.method else METHODS:
        for precision in _choose_precisions(stored, request):
            if method == "full" and precision.quantization is not None:
                continue  # a quantized model does not support full fine-tuning
            training = TrainingSettings(
                method=method,
                batch=request.batch,
                tokens=request.tokens or shape.context_length,
                lora_rank=request.lora_rank,
                gradient_checkpointing=request.gradient_checkpointing,
            )
            yield EstimateRow(model, f"train {method}", precision, estimate_finetuning(shape, precision, training))


def _choose_precisions(stored: Precision, request: EstimateRequest) -> Sequence[Precision]:
    """Return the requested precision, else the precision of a quantized checkpoint, else all precisions."""
    if request.precisions is not None:
        return [replace(precision, dtype=stored.dtype) for precision in request.precisions]
    if stored.quantization is not None:
        return (stored,)
    return [replace(precision, dtype=stored.dtype) for precision in PRECISIONS]
