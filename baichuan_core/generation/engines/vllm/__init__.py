"""vLLM as an engine, where it is installed (extra ``vllm``). The Baichuan model that it runs is ours, see `model`."""

from importlib.util import find_spec

import torch

from baichuan_core.config import BaichuanConfig
from baichuan_core.generation.engines.contract import EncodedRequest, Engine, EngineSetup
from baichuan_core.generation.engines.vllm.engine import VllmEngine
from baichuan_core.model.positions import depends_on_length
from baichuan_core.tokenizer import BaichuanTokenizer


def obstacle(setup: EngineSetup) -> str | None:
    """See `EngineModule.obstacle`."""
    if find_spec("vllm") is None:
        return "the package vllm is not installed (the extra 'vllm' has it)"
    device = setup.settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device not in ("cpu", "cuda"):
        return "it takes the first GPU that it sees (leave 'device' out)"
    if not _computes_on(device):
        return f"the build that is installed does not compute on {device}"
    if setup.adapter is not None:
        return "it is not used with adapters (merge the adapter into its base first)"
    return model_obstacle(setup.config)


def model_obstacle(config: BaichuanConfig) -> str | None:
    """Why our model for vLLM would not compute this checkpoint right; None if it does."""
    if getattr(config, "quantization_config", None):
        return "it is not used for quantized checkpoints"
    if config.norm_head and config.tie_word_embeddings:
        return "a normalised head that is the embedding as well cannot be normalised in place"
    if depends_on_length(config):
        return "its rope_type scales by the length of each prompt"
    if config.hidden_act != "silu":
        return f"it has no activation {config.hidden_act!r}"
    return None


def find_unsupported_parameter(_request: EncodedRequest) -> str | None:
    """See `EngineModule.find_unsupported_parameter`."""
    return None


def start(setup: EngineSetup, tokenizer: BaichuanTokenizer) -> Engine:
    """See `EngineModule.start`."""
    return VllmEngine(setup, tokenizer)


def _computes_on(device: str) -> bool:
    from vllm.platforms import current_platform  # noqa: PLC0415 - heavy, and rarely there

    return bool(current_platform.device_type == device)
