"""How much memory a job will take, from its spec and from what is known of its model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from footprint import (
    Footprint,
    Precision,
    Shape,
    ShapeError,
    Training,
    calibrating,
    converting,
    finetuning,
    inference,
    quantizing,
    scoring,
)
from jobs.specs import AnySpec, ConvertSpec, EvaluateSpec, FinetuneSpec, GenerateSpec, QuantizeSpec
from jobs.specs.fields import Dtype

# Defaults of `baichuan_core.generation`: most tokens that run at once.
BATCH_TOKENS = 16_384


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What of a checkpoint decides how much memory it takes."""

    shape: Shape
    precision: Precision

    @classmethod
    def from_details(cls, details: Mapping[str, Any]) -> Self | None:
        """From the details of a registered model; None if they do not say enough."""
        try:
            return cls(Shape.from_config(details), Precision(**details["precision"]))
        except (ShapeError, KeyError, TypeError):
            return None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """From a `config.json`.

        Raises:
            ShapeError: it does not describe a Baichuan model.
        """
        return cls(Shape.from_config(config), Precision.from_config(config))


def footprint_of(spec: AnySpec, model: KnownModel, *, on_gpu: bool = True) -> Footprint:
    """What a job takes at the limits of its spec, where its shortest inputs may need less."""
    shape = model.shape
    match spec:
        case GenerateSpec():
            tokens = min(shape.context_length, _longest_prompt(spec, shape.context_length) + spec.max_new_tokens)
            rows = max(1, min(spec.batch_size, _completions(spec), BATCH_TOKENS // tokens))
            return inference(shape, _loaded(model, spec.dtype), batch=rows, tokens=tokens)
        case EvaluateSpec():
            tokens = max(spec.batch_tokens, shape.context_length)
            return scoring(shape, _loaded(model, spec.dtype), tokens=tokens)
        case FinetuneSpec():
            training = Training(
                method=spec.method,
                batch=spec.batch_size,
                tokens=min(spec.max_length, shape.context_length),
                lora_rank=spec.lora_rank,
                gradient_checkpointing=spec.gradient_checkpointing,
                accumulation=spec.gradient_accumulation_steps,
            )
            return finetuning(shape, replace(model.precision, dtype=_computed_in(spec, on_gpu=on_gpu)), training)
        case QuantizeSpec(calibration=True):
            return calibrating(shape, sequences=spec.calibration_sequences)
        case QuantizeSpec():
            return quantizing(shape, quantize_head=spec.quantize_head)
        case ConvertSpec():
            return converting(shape, model.precision)


def _loaded(model: KnownModel, dtype: Dtype) -> Precision:
    return model.precision if dtype == "auto" else replace(model.precision, dtype=dtype)


def _computed_in(spec: FinetuneSpec, *, on_gpu: bool) -> Literal["float32", "bfloat16"]:
    """The dtype of a training; "auto" is bfloat16 on a GPU only."""
    if spec.dtype == "auto":
        return "bfloat16" if on_gpu else "float32"
    return spec.dtype


def _longest_prompt(spec: GenerateSpec, unknown: int) -> int:
    """Tokens of the longest prompt at most; a character rarely is more than one."""
    if spec.prompts is not None:
        return max(map(len, spec.prompts))
    if spec.conversations is not None:
        return max(sum(len(turn.content) + 1 for turn in turns) for turns in spec.conversations)
    return unknown


def _completions(spec: GenerateSpec) -> int:
    """How many completions there are, as far as the spec tells."""
    requests = spec.prompts or spec.conversations
    return spec.batch_size if requests is None else len(requests) * spec.n
