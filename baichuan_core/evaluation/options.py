"""Models to evaluate, and evaluation options."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from baichuan_core.checkpoint import DtypeName
from baichuan_core.errors import UnsupportedError
from baichuan_core.likelihood import BATCH_TOKENS

from .benchmarks import BenchmarkName, Split


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """A checkpoint to evaluate, optionally with a LoRA adapter.

    Attributes:
        checkpoint: Directory of the checkpoint.
        adapter: Directory of the LoRA adapter.
        name: Name in reports; by default the names of the directories.
    """

    checkpoint: Path | str
    adapter: Path | str | None = None
    name: str | None = None

    @classmethod
    def from_path(cls, model: "EvaluatedModel | Path | str") -> "EvaluatedModel":
        """Wrap a checkpoint path; return an `EvaluatedModel` unchanged."""
        return model if isinstance(model, EvaluatedModel) else cls(model)

    @property
    def display_name(self) -> str:
        """Name to show in reports."""
        adapted = f" + {Path(self.adapter).absolute().name}" if self.adapter else ""
        return self.name or f"{Path(self.checkpoint).absolute().name}{adapted}"


@dataclass(frozen=True, slots=True)
class BenchmarkOptions:
    """Options for a benchmark evaluation.

    Attributes:
        benchmark: The benchmark to run.
        split: The split to evaluate; by default the one that published results are usually reported on.
        shots: Number of examples before each question.
        subjects: File names of the subjects to evaluate; all subjects in the data by default.
        limit: Maximum number of questions per subject; the first ones are used.
        dtype: Dtype of the weights; "auto" means the checkpoint's dtype.
        device: Device to run on; the first GPU by default, or the CPU if there is no GPU.
        batch_tokens: Maximum number of tokens in a batch, including shared tokens and padding.
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
            raise UnsupportedError(f"shots is {self.shots}: use 0 or more")
        if self.limit is not None and self.limit < 1:
            raise UnsupportedError(f"limit is {self.limit}: use 1 or more, or None for all questions")
        if self.subjects is not None and not self.subjects:
            raise UnsupportedError("subjects is empty: pass at least one, or None for all")


@dataclass(frozen=True, slots=True)
class PerplexityOptions:
    """Options for a perplexity evaluation.

    Attributes:
        window: Tokens per window; by default 2048, or the model's context length if that is shorter. Windows do not
            overlap, and the first token of each is not scored.
        dtype, device, batch_tokens: As in `BenchmarkOptions`.
    """

    window: int | None = None
    dtype: DtypeName = "auto"
    device: str | None = None
    batch_tokens: int = BATCH_TOKENS

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 2:  # noqa: PLR2004 - one token of context and one to predict
            raise UnsupportedError(f"window is {self.window}: use 2 or more tokens")
