"""This project's own engine, which runs the model on batches of rows; users select it as `transformers`."""

from pathlib import Path

from baichuan_core.checkpoint import load_model
from baichuan_core.generation.engines.contract import EncodedRequest, Engine, EngineSetup
from baichuan_core.generation.engines.native.engine import NativeEngine
from baichuan_core.model.positions import has_length_dependent_rotation
from baichuan_core.tokenizer import BaichuanTokenizer


def find_unsupported_reason(setup: EngineSetup) -> str | None:
    """See `EngineModule.find_unsupported_reason`."""
    if has_length_dependent_rotation(setup.config):
        return (
            "its rope_type scales by the length of each prompt, but the prompts of a batch have different lengths "
            '(set rope_type in config.json to "linear" or "yarn", or call generate() on the model with one prompt)'
        )
    if _has_torch_weights(setup.checkpoint):
        return None
    return "the checkpoint has no safetensors or .bin weights" if next(setup.checkpoint.glob("*.gguf"), None) else None


def find_unsupported_parameter(_request: EncodedRequest) -> str | None:
    """See `EngineModule.find_unsupported_parameter`."""
    return None


def create_engine(setup: EngineSetup, tokenizer: BaichuanTokenizer) -> Engine:
    """See `EngineModule.create_engine`."""
    settings = setup.settings
    model = load_model(setup.checkpoint, dtype=settings.dtype, device=settings.device, adapter=setup.adapter)
    return NativeEngine(model.prepack(), tokenizer, settings, setup.end_token_ids)


def _has_torch_weights(checkpoint: Path) -> bool:
    return any(next(checkpoint.glob(pattern), None) for pattern in ("*.safetensors", "*.bin"))
