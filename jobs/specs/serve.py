"""Keep a model loaded and answer chats: the fields that chats need; the worker side defines the rest."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from footprint import Footprint, inference
from jobs.specs.fields import Dtype, ModelName
from jobs.specs.generate import BATCH_TOKENS
from jobs.specs.job_spec import JobSpec
from jobs.specs.known_model import KnownModel
from jobs.specs.suitability import AdapterUse


class ServeSpec(JobSpec):
    """Load a model, and answer chats on it until none has come for a while."""

    produces_model: ClassVar[bool] = False
    runs_gguf: ClassVar[bool] = True

    kind: Literal["serve"]
    adapter: ModelName | None = Field(None, description="A LoRA adapter model to apply to `model`")
    engine: Literal["auto", "transformers", "vllm", "llama_cpp"] = "auto"
    batch_size: int = Field(32, ge=1, le=256, description="Most completions that are written side by side")
    idle_seconds: float = Field(60, gt=0, description="The job ends when no chat has come for so long")
    dtype: Dtype = "auto"

    def model_references(self) -> dict[str, str]:
        """See `JobSpec.model_references`."""
        adapter = {"adapter": self.adapter} if self.adapter else {}
        return {"model": self.model, **adapter}

    @property
    def loaded_dtype(self) -> Dtype:
        """See `JobSpec.loaded_dtype`."""
        return self.dtype

    @property
    def adapter_use(self) -> AdapterUse:
        """See `JobSpec.adapter_use`."""
        return AdapterUse.OPTIONAL

    def footprints(self, model: KnownModel, *, on_gpu: bool = True) -> Sequence[Footprint]:  # noqa: ARG002 - the same anywhere
        """See `JobSpec.footprints`."""
        tokens = min(model.shape.context_length, BATCH_TOKENS)
        rows = max(1, min(self.batch_size, BATCH_TOKENS // tokens))
        return [inference(model.shape, model.loaded(self.dtype), batch=rows, tokens=tokens)]
