"""Result of a quantize job."""

from typing import Literal

from pydantic import Field

from jobs.results.fields import FiniteFloat, Result
from jobs.specs.fields import StrictModel


class MeasuredModel(StrictModel):
    """One model in a quality report."""

    name: str = Field(description='"unquantized", or the method')
    weight_bytes: int = Field(description="Total size of the weights in bytes")
    perplexity: FiniteFloat = None
    kl_divergence: FiniteFloat = Field(None, description="Mean KL(unquantized || this), in nats per token")
    top_1_agreement: FiniteFloat = Field(
        None, description="Fraction of positions where the most likely token is the same as in the unquantized model"
    )
    mean_relative_error: FiniteFloat = None


class QuantizationQuality(StrictModel):
    """The quality report, as in the artifact quality.json but without the errors of individual weights."""

    text: str = Field(description='"built-in", or the name of the file used for the measurement')
    tokens: int = Field(description="Number of tokens of the text that were scored")
    models: list[MeasuredModel] = Field(description="The unquantized model, then the quantized ones")
    likelihoods_missing: str | None = Field(
        None, description="Why perplexity, divergence and agreement are missing; null if they are present"
    )


class QuantizeResult(Result):
    """The size and error of a quantized checkpoint."""

    kind: Literal["quantize"] = "quantize"
    method: str
    bytes_before: int = Field(description="Total size in bytes of the tensors that were read")
    bytes_after: int = Field(description="Total size in bytes of the tensors that were written")
    relative_errors: dict[str, FiniteFloat] = Field(
        description="|W - Q| / |W| in the Frobenius norm, by the name of the quantized weight"
    )
    mean_relative_error: FiniteFloat
    quality: QuantizationQuality | None = Field(None, description="The quality report; null if quality_report is false")
