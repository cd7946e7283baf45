"""TEMPORARY stand-in of the worker side's spec."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from footprint import Footprint, inference
from jobs.specs.fields import Dtype, ModelName
from jobs.specs.job_spec import JobSpec
from jobs.specs.known_model import KnownModel
from jobs.specs.suitability import AdapterUse


class ServeSpec(JobSpec):
    produces_model = False
    runs_gguf = True
    kind: Literal["serve"]
    adapter: ModelName | None = None
    engine: Literal["auto", "transformers", "vllm", "llama_cpp"] = "auto"
    batch_size: int = Field(32, ge=1, le=256)
    idle_seconds: float = 60
    dtype: Dtype = "auto"

    def model_references(self) -> dict[str, str]:
        adapter = {"adapter": self.adapter} if self.adapter else {}
        return {"model": self.model, **adapter}

    @property
    def loaded_dtype(self) -> Dtype:
        return self.dtype

    @property
    def adapter_use(self) -> AdapterUse:
        return AdapterUse.OPTIONAL

    def footprints(self, model: KnownModel, *, on_gpu: bool = True) -> Sequence[Footprint]:
        return [inference(model.shape, model.loaded(self.dtype), batch=8, tokens=256)]
