"""Results of an evaluate job: on a benchmark, or on a text."""

from typing import Literal

from pydantic import Field

from jobs.results.fields import FiniteFloat, Result
from jobs.specs.fields import StrictModel


class Accuracy(StrictModel):
    """Fraction of correct answers."""

    accuracy: FiniteFloat
    questions: int
    subjects: int


class AccuracyDifference(StrictModel):
    """Accuracy of the model minus that of the other one, on the same questions."""

    difference: FiniteFloat
    low: FiniteFloat = Field(description="Lower end of the 95% confidence interval")
    high: FiniteFloat = Field(description="Upper end of it")
    only_model: FiniteFloat = Field(description="Fraction of questions that only the model answers correctly")
    only_other: FiniteFloat = Field(description="Fraction that only the other one answers correctly")
    same_letter: FiniteFloat = Field(description="Fraction to which both answer the same letter")


class ModelAccuracy(StrictModel):
    """Accuracy of one model; the artifact evaluation.json has it by subject."""

    name: str
    total: Accuracy
    categories: dict[str, Accuracy]
    fewer_shots: int = Field(description="Questions asked with fewer examples, because of the model's window")
    cut: int = Field(description="Questions that do not fit even without examples and lost their beginning")


class AccuracyComparison(StrictModel):
    """Two models on the same questions."""

    total: AccuracyDifference
    categories: dict[str, AccuracyDifference]
    method: str = Field(description="How the intervals were computed")


class BenchmarkResult(Result):
    """Accuracy on a benchmark."""

    kind: Literal["evaluate"] = "evaluate"
    benchmark: str = Field(description="Title of the benchmark")
    split: str
    shots: int = Field(description="Examples before each question")
    averaging: str = Field(description="What categories and total are means of: questions or subjects")
    model: ModelAccuracy
    compared_with: ModelAccuracy | None
    comparison: AccuracyComparison | None


class ModelPerplexity(StrictModel):
    """Perplexity of one model: exp of the mean negative log-likelihood per token."""

    name: str
    perplexity: FiniteFloat


class PerplexityComparison(StrictModel):
    """Two models on the same tokens."""

    difference: FiniteFloat = Field(description="Perplexity of the model minus that of the other one")
    ratio: FiniteFloat
    interval: tuple[FiniteFloat, FiniteFloat] | None = Field(
        description="95% confidence interval of ratio; null if there are too few windows"
    )
    kl_divergence: FiniteFloat = Field(description="Mean KL(other || model), in nats per token")
    top_1_agreement: FiniteFloat = Field(description="Fraction of tokens on whose most likely candidate both agree")
    method: str = Field(description="How the interval was computed")


class PerplexityResult(Result):
    """Perplexity on a text."""

    kind: Literal["evaluate"] = "evaluate"
    window: int = Field(description="Tokens per window")
    windows: int
    tokens: int = Field(description="Tokens that were scored")
    model: ModelPerplexity
    compared_with: ModelPerplexity | None
    comparison: PerplexityComparison | None
