"""Spec of a convert job, which converts a checkpoint to another format that computes the same results."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from footprint import Footprint, estimate_conversion
from jobs.specs.fields import Dtype, ModelName
from jobs.specs.job_spec import ModelInputSpec, ModelOutputSpec
from jobs.specs.model_properties import ModelProperties
from jobs.specs.suitability import AdapterUse


class ConvertSpec(ModelInputSpec, ModelOutputSpec):
    """A job that converts a checkpoint to another format that computes the same results.

    `baichuan1` normalizes the rows of the output head in advance, for engines that do not support NormHead.
    `safetensors` converts any published file format to sharded safetensors, and the published int4 to today's NF4.
    `llama` converts a 7B model to an equivalent Llama model, for programs that do not support Baichuan.
    `gguf` writes one file for llama.cpp, which generate jobs run on a CPU.
    `merged` adds a LoRA adapter to its base, quantized or not; `model` is the adapter, or the base if `adapter` is set.
    `dequantized` converts a quantized checkpoint back to floats.
    """

    kind: Literal["convert"]
    target: Literal["baichuan1", "safetensors", "llama", "gguf", "merged", "dequantized"]
    adapter: ModelName | None = Field(None, description="The LoRA adapter model that `merged` adds to `model`")
    gguf_type: Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"] | None = Field(
        None, description="Type of the matrices in a `gguf` file; f16 by default"
    )
    dtype: Dtype = Field("auto", description="Dtype of a `merged` or `dequantized` model; by default, the model's own")

    @model_validator(mode="after")
    def _check_target_options(self) -> Self:
        if self.gguf_type is not None and self.target != "gguf":
            raise ValueError(f"gguf_type requires the target 'gguf', but the target is {self.target!r}; omit gguf_type")
        if self.dtype != "auto" and self.target not in ("merged", "dequantized"):
            raise ValueError(
                f"dtype requires the target 'merged' or 'dequantized', but the target is {self.target!r}; omit dtype"
            )
        if self.adapter is not None and self.target != "merged":
            raise ValueError(f"adapter requires the target 'merged', but the target is {self.target!r}; omit adapter")
        return self

    def list_model_references(self) -> dict[str, str]:
        """See `JobSpec.list_model_references`."""
        adapter = {"adapter": self.adapter} if self.adapter else {}
        return {"model": self.model, **adapter}

    @property
    def adapter_use(self) -> AdapterUse:
        """See `ModelInputSpec.adapter_use`."""
        return AdapterUse.REQUIRED if self.target == "merged" else AdapterUse.REFUSED

    def estimate_footprints(self, model: ModelProperties, *, on_gpu: bool = True) -> Sequence[Footprint]:  # noqa: ARG002 - the footprint is always the same
        """See `JobSpec.estimate_footprints`."""
        return [estimate_conversion()]
