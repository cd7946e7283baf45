"""What is evaluated, and how."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from baichuan_core.checkpoint import DtypeName
from baichuan_core.errors import UnsupportedError
from baichuan_core.likelihood import BATCH_TOKENS

from .benchmarks import BenchmarkName, Split


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """A checkpoint, perhaps with a LoRA adapter; `name` is what reports call it, its directory's name by default."""

    checkpoint: Path | str
    adapter: Path | str | None = None
    name: str | None = None

    @classmethod
    def of(cls, model: "EvaluatedModel | Path | str") -> "EvaluatedModel":
        """A checkpoint alone, or the model as it is given."""
        return model if isinstance(model, EvaluatedModel) else cls(model)

    @property
    def shown(self) -> str:
        """The name in reports."""
        adapted = f" + {Path(self.adapter).absolute().name}" if self.adapter else ""
        return self.name or f"{Path(self.checkpoint).absolute().name}{adapted}"


@dataclass(frozen=True, slots=True)
class BenchmarkOptions:
    """What a model is asked.

    Attributes:
        benchmark: Whose questions.
        split: Which questions are asked; by default those that the benchmark's results are reported on.
        shots: Examples before each question.
        subjects: Only these, by the names of their files; all that are there by default.
        limit: Only the first questions of each subject.
        dtype: Dtype of the weights, "auto" for that of the checkpoint.
        device: Where the model runs; the first GPU, or else the CPU, by default.
        batch_tokens: Most tokens in one batch, shared ones and padding included.
    """

    benchmark: BenchmarkName
    split: Split | None = None
    shots: int = 5
    subjects: Sequence[str] | None = None
    limit: int | None = None
    dtype: DtypeName = "auto"
    device: str | None = None
    batch_tokens: int = BATCH_TOKENS

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise UnsupportedError(f"shots is {self.shots}: give 0 or more")
        if self.limit is not None and self.limit < 1:
            raise UnsupportedError(f"limit is {self.limit}: give 1 or more, or None for all questions")
        if self.subjects is not None and not self.subjects:
            raise UnsupportedError("subjects is empty: name some, or give None for all")


@dataclass(frozen=True, slots=True)
class PerplexityOptions:
    """How the perplexity on a text is measured.

    Attributes:
        window: Tokens that the model sees at once; 2048, or the model's own window if that is shorter, by default.
            Windows do not overlap, and the first token of each is not scored.
        dtype, device, batch_tokens: As in `BenchmarkOptions`.
    """

    window: int | None = None
    dtype: DtypeName = "auto"
    device: str | None = None
    batch_tokens: int = BATCH_TOKENS

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 2:  # noqa: PLR2004 - one token to see, one to predict
            raise UnsupportedError(f"window is {self.window}: give 2 or more tokens")
