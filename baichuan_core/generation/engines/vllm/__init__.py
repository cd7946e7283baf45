"""The vLLM engine, which runs our implementation of the model (see `model`). It requires the extra `vllm`."""

from importlib.util import find_spec

import torch

from baichuan_core.config import BaichuanConfig
from baichuan_core.generation.engines.contract import EncodedRequest, Engine, EngineSetup
from baichuan_core.generation.engines.vllm.engine import VllmEngine
from baichuan_core.model.positions import has_length_dependent_rotation
from baichuan_core.tokenizer import BaichuanTokenizer


def find_unsupported_reason(setup: EngineSetup) -> str | None:
    """See `EngineModule.find_unsupported_reason`."""
    if find_spec("vllm") is None:
        return "the package vllm is not installed (install the extra 'vllm')"
    device = setup.settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device not in ("cpu", "cuda"):
        return "it always uses the first visible GPU (remove 'device')"
    if not _supports_device(device):
        return f"the installed build of vLLM does not support {device}"
    if setup.adapter is not None:
        return "it does not support adapters (merge the adapter into its base model first)"
    return find_model_incompatibility(setup.config)


def find_model_incompatibility(config: BaichuanConfig) -> str | None:
    """Return the reason why our vLLM model does not support this configuration, or None if it does."""
    if getattr(config, "quantization_config", None):
        return "it does not support quantized checkpoints"
    if config.norm_head and config.tie_word_embeddings:
        return "a normalized output head cannot be tied to the embedding"
    if has_length_dependent_rotation(config):
        return "its rope_type scales by the length of each prompt"
    if config.hidden_act != "silu":
        return f"it does not support the activation {config.hidden_act!r}"
    return None


def find_unsupported_parameter(_request: EncodedRequest) -> str | None:
    """See `EngineModule.find_unsupported_parameter`."""
    return None


def create_engine(setup: EngineSetup, tokenizer: BaichuanTokenizer) -> Engine:
    """See `EngineModule.create_engine`."""
    return VllmEngine(setup, tokenizer)


def _supports_device(device: str) -> bool:
    from vllm.platforms import current_platform  # noqa: PLC0415 - slow, and rarely installed

    return bool(current_platform.device_type == device)
