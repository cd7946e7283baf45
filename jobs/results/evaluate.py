"""Results of an evaluate job, on a benchmark or on a text."""

from typing import Literal

from pydantic import Field

from jobs.results.fields import FiniteFloat, Result
from jobs.specs.fields import StrictModel


class Accuracy(StrictModel):
    """The fraction of correct answers."""

    accuracy: FiniteFloat
    questions: int
    subjects: int


class AccuracyDifference(StrictModel):
    """The accuracy of the model minus that of the other model, on the same questions."""

    difference: FiniteFloat
    low: FiniteFloat = Field(description="Lower end of the 95% confidence interval")
    high: FiniteFloat = Field(description="Upper end of the 95% confidence interval")
    only_model: FiniteFloat = Field(description="Fraction of questions that only the model answers correctly")
    only_other: FiniteFloat = Field(description="Fraction of questions that only the other model answers correctly")
    same_letter: FiniteFloat = Field(description="Fraction of questions to which both models give the same letter")


class ModelAccuracy(StrictModel):
    """The accuracy of one model; the artifact evaluation.json has the accuracy for each subject."""

    name: str
    total: Accuracy
    categories: dict[str, Accuracy]
    fewer_shots: int = Field(description="Number of questions asked with fewer examples because of the model's window")
    cut: int = Field(
        description="Number of questions whose beginning was cut because they do not fit even without examples"
    )


class AccuracyComparison(StrictModel):
    """A comparison of two models on the same questions."""

    total: AccuracyDifference
    categories: dict[str, AccuracyDifference]
    method: str = Field(description="How the intervals were computed")


class BenchmarkResult(Result):
    """Accuracy on a benchmark."""

    kind: Literal["evaluate"] = "evaluate"
    benchmark: str = Field(description="Title of the benchmark")
    split: str
    shots: int = Field(description="Number of examples before each question")
    averaging: str = Field(description="What categories and total are averaged over: questions or subjects")
    model: ModelAccuracy
    compared_with: ModelAccuracy | None
    comparison: AccuracyComparison | None


class ModelPerplexity(StrictModel):
    """The perplexity of one model: exp of the mean negative log-likelihood per token."""

    name: str
    perplexity: FiniteFloat


class PerplexityComparison(StrictModel):
    """A comparison of two models on the same tokens."""

    difference: FiniteFloat = Field(description="Perplexity of the model minus that of the other model")
    ratio: FiniteFloat
    interval: tuple[FiniteFloat, FiniteFloat] | None = Field(
        description="95% confidence interval of the ratio; null if there are too few windows"
    )
    kl_divergence: FiniteFloat = Field(description="Mean KL(other || model), in nats per token")
    top_1_agreement: FiniteFloat = Field(
        description="Fraction of tokens for which both models agree on the most likely candidate"
    )
    method: str = Field(description="How the interval was computed")


class PerplexityResult(Result):
    """Perplexity on a text."""

    kind: Literal["evaluate"] = "evaluate"
    window: int = Field(description="Number of tokens per window")
    windows: int
    tokens: int = Field(description="Number of tokens that were scored")
    model: ModelPerplexity
    compared_with: ModelPerplexity | None
    comparison: PerplexityComparison | None
