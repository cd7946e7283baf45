"""What jobs that generate text share: which engine runs which model, and the memory of an open batch."""

from collections.abc import Sequence
from typing import Literal

from footprint import Footprint, inference, max_kept_prefix_tokens
from jobs.specs.fields import Dtype
from jobs.specs.known_model import KnownModel
from jobs.specs.suitability import ChosenModel, Misfit

BATCH_TOKENS = 16_384  # maximum tokens that run at once, as in `baichuan_core.generation`

EngineChoice = Literal["auto", "transformers", "vllm", "llama_cpp"]


def find_engine_misfit(model: ChosenModel, engine: EngineChoice, dtype: Dtype) -> Misfit | None:
    """Return why an engine cannot run a model, as far as no machine changes that."""
    if model.is_gguf:
        return _find_gguf_misfit(engine, dtype, has_adapter=model.has_adapter)
    if engine == "llama_cpp":
        return Misfit("engine", "is not a GGUF file, which llama_cpp runs; leave engine out")
    if engine == "vllm" and (model.has_adapter or model.is_quantized):
        has = "has an adapter" if model.has_adapter else "is quantized"
        return Misfit("engine", f"{has}, which the engine vllm does not run; leave engine out")
    return None


def _find_gguf_misfit(engine: EngineChoice, dtype: Dtype, *, has_adapter: bool) -> Misfit | None:
    if has_adapter:
        return Misfit("adapter", "is a GGUF file, which takes no adapter; merge the adapter, then convert to gguf")
    if engine not in ("auto", "llama_cpp"):
        return Misfit("engine", f"is a GGUF file, which the engine {engine} does not run; leave engine out")
    if dtype != "auto":
        return Misfit("dtype", "is a GGUF file, which has its own dtype; leave dtype out")
    return None


def estimate_open_batch(
    model: KnownModel, dtype: Dtype, prompts: Sequence[int], *, max_new_tokens: int, batch_size: int
) -> Footprint:
    """Estimate the memory for completing prompts in an open batch.

    Args:
        model: The model.
        dtype: Dtype of its weights.
        prompts: Maximum number of tokens of the prompt of each completion.
        max_new_tokens: Maximum number of tokens of a completion.
        batch_size: Maximum number of completions that run at the same time.
    """
    window = model.shape.context_length
    prompts = [min(window, tokens) for tokens in prompts]
    tokens = min(window, max(prompts) + max_new_tokens)
    rows = max(1, min(batch_size, len(prompts), BATCH_TOKENS // tokens))
    shared = max_kept_prefix_tokens(prompts, batch_tokens=BATCH_TOKENS)
    return inference(model.shape, model.loaded(dtype), batch=rows, tokens=tokens, shared=shared)
