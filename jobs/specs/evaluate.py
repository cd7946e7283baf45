"""Spec of an evaluate job, which evaluates a model on a published benchmark or on a text."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from footprint import Footprint, estimate_scoring
from jobs.specs.fields import Dtype, FileId, ModelName
from jobs.specs.job_spec import ModelInputSpec
from jobs.specs.model_properties import ModelProperties
from jobs.specs.suitability import AdapterUse

SubjectName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_]{0,63}$")]
BENCHMARK_FIELDS = ("split", "subjects", "limit")


class EvaluateSpec(ModelInputSpec):
    """A job that evaluates a model on a published benchmark or on a text.

    `ceval`, `mmlu` and `cmmlu` are multiple-choice benchmarks, scored by the log-likelihood of each answer's letter.
    `perplexity` measures how well the model predicts a text.
    """

    produces_model: ClassVar[bool] = False

    kind: Literal["evaluate"]
    adapter: ModelName | None = Field(None, description="A LoRA adapter model to apply to `model`")
    benchmark: Literal["ceval", "mmlu", "cmmlu", "perplexity"]
    data_file: FileId = Field(description="The published archive of the benchmark (.zip, .tar), or a UTF-8 text file")
    compare_with: ModelName | None = Field(None, description="A second model to compare the first one with")
    shots: int = Field(5, ge=0, le=100, description="Number of examples before each question")
    split: Literal["val", "test"] | None = Field(None, description="By default, val for ceval and test for the others")
    subjects: list[SubjectName] | None = Field(
        None, min_length=1, max_length=100, description="Subjects to evaluate; by default, all subjects in the file"
    )
    limit: int | None = Field(
        None, ge=1, le=1_000_000, description="Maximum number of questions per subject; the first ones are used"
    )
    window: int | None = Field(
        None,
        ge=2,
        le=1_000_000,
        description="perplexity: tokens per window; by default 2048, or the model's window if that is shorter",
    )
    batch_tokens: int = Field(16_384, ge=1, le=16_777_216, description="Maximum number of tokens per batch")
    dtype: Dtype = "auto"

    @model_validator(mode="after")
    def _check_benchmark_fields(self) -> Self:
        foreign = BENCHMARK_FIELDS if self.benchmark == "perplexity" else ("window",)
        given = [name for name in foreign if getattr(self, name) is not None]
        if given:
            them = "it" if len(given) == 1 else "them"
            raise ValueError(f"{self.benchmark} does not accept {' or '.join(given)}; leave {them} out")
        return self

    def list_model_references(self) -> dict[str, str]:
        """See `JobSpec.list_model_references`."""
        named = {"model": self.model, "adapter": self.adapter, "compare_with": self.compare_with}
        return {field: name for field, name in named.items() if name is not None}

    def list_file_references(self) -> dict[str, str]:
        """See `JobSpec.list_file_references`."""
        return {"data_file": self.data_file}

    @property
    def loaded_dtype(self) -> Dtype:
        """See `JobSpec.loaded_dtype`."""
        return self.dtype

    @property
    def adapter_use(self) -> AdapterUse:
        """See `ModelInputSpec.adapter_use`."""
        return AdapterUse.OPTIONAL

    def estimate_footprints(self, model: ModelProperties, *, on_gpu: bool = True) -> Sequence[Footprint]:  # noqa: ARG002 - the same on CPU and GPU
        """See `JobSpec.estimate_footprints`; the keys and values of the examples fill at most one window."""
        window = model.shape.context_length
        shared = 0 if self.benchmark == "perplexity" or self.shots == 0 else window
        tokens = max(self.batch_tokens, self.window or window)
        return [estimate_scoring(model.shape, model.loaded_precision(self.dtype), tokens=tokens, shared=shared)]
