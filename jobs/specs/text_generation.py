"""Base class for the specs of jobs that generate text: the model, its engine, and the memory of an open batch."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from footprint import Footprint, compute_max_cached_prefix_tokens, estimate_inference
from jobs.specs.fields import Dtype, ModelName
from jobs.specs.job_spec import ModelInputSpec
from jobs.specs.model_properties import ModelProperties
from jobs.specs.suitability import AdapterUse, ChosenModel, Incompatibility

MAX_BATCH_TOKENS = 16_384  # maximum number of tokens per batch, as in `baichuan_core.generation`

EngineName = Literal["auto", "transformers", "vllm", "llama_cpp"]


class TextGenerationSpec(ModelInputSpec):
    """Base class for the specs of jobs that generate text with a model and possibly an adapter."""

    produces_model: ClassVar[bool] = False
    runs_gguf: ClassVar[bool] = True

    adapter: ModelName | None = Field(None, description="A LoRA adapter model to apply to `model`")
    engine: EngineName = Field(
        "auto",
        description="What runs the model; auto chooses the fastest engine that can, and the result says which and why",
    )
    batch_size: int = Field(32, ge=1, le=256, description="Maximum number of completions that run at the same time")
    dtype: Dtype = "auto"

    def list_model_references(self) -> dict[str, str]:
        """See `JobSpec.list_model_references`."""
        adapter = {"adapter": self.adapter} if self.adapter else {}
        return {"model": self.model, **adapter}

    @property
    def loaded_dtype(self) -> Dtype:
        """See `JobSpec.loaded_dtype`."""
        return self.dtype

    @property
    def adapter_use(self) -> AdapterUse:
        """See `ModelInputSpec.adapter_use`."""
        return AdapterUse.OPTIONAL

    def find_incompatibility(self, model: ChosenModel) -> Incompatibility | None:
        """See `ModelInputSpec.find_incompatibility`; checks only conditions that apply on every machine."""
        if model.is_gguf:
            return _find_gguf_incompatibility(self.engine, self.dtype, has_adapter=model.has_adapter)
        if self.engine == "llama_cpp":
            return Incompatibility("engine", "is not a GGUF file, which llama_cpp requires; leave engine out")
        if self.engine == "vllm" and (model.has_adapter or model.is_quantized):
            has = "has an adapter" if model.has_adapter else "is quantized"
            return Incompatibility("engine", f"{has}, which the engine vllm cannot run; leave engine out")
        return None

    def estimate_open_batch_memory(
        self, model: ModelProperties, prompts: Sequence[int], *, max_new_tokens: int
    ) -> Footprint:
        """Estimate the memory for completing prompts in an open batch.

        Args:
            model: The model.
            prompts: Maximum number of prompt tokens of each completion.
            max_new_tokens: Maximum number of tokens per completion.
        """
        window = model.shape.context_length
        prompts = [min(window, tokens) for tokens in prompts]
        tokens = min(window, max(prompts) + max_new_tokens)
        rows = max(1, min(self.batch_size, len(prompts), MAX_BATCH_TOKENS // tokens))
        shared = compute_max_cached_prefix_tokens(prompts, batch_tokens=MAX_BATCH_TOKENS)
        return estimate_inference(
            model.shape, model.loaded_precision(self.dtype), batch=rows, tokens=tokens, shared=shared
        )


def _find_gguf_incompatibility(engine: EngineName, dtype: Dtype, *, has_adapter: bool) -> Incompatibility | None:
    if has_adapter:
        return Incompatibility(
            "adapter", "is a GGUF file, which does not support adapters; merge the adapter, then convert to gguf"
        )
    if engine not in ("auto", "llama_cpp"):
        return Incompatibility("engine", f"is a GGUF file, which the engine {engine} cannot run; leave engine out")
    if dtype != "auto":
        return Incompatibility("dtype", "is a GGUF file, which has its own dtype; leave dtype out")
    return None
