"""The llama.cpp engine, which runs GGUF models on a CPU in a separate process. It requires the extra `cpu`."""

from importlib.util import find_spec

from baichuan_core.generation.engines.contract import EncodedRequest, Engine, EngineSetup
from baichuan_core.generation.engines.llama_cpp.engine import LlamaCppEngine
from baichuan_core.tokenizer import BaichuanTokenizer


def find_unsupported_reason(setup: EngineSetup) -> str | None:
    """See `EngineModule.find_unsupported_reason`."""
    if not any(setup.checkpoint.glob("*.gguf")):
        return "the checkpoint is not a GGUF file (convert it with the target gguf)"
    if find_spec("xllamacpp") is None:
        return "the package xllamacpp is not installed (install the extra 'cpu')"
    if setup.adapter is not None:
        return (
            "a GGUF file cannot be used with a LoRA adapter (merge the adapter into its base model, then convert the"
            " result)"
        )
    if setup.settings.dtype != "auto":
        return "the dtype of a GGUF file cannot be changed (set 'dtype' to 'auto')"
    if (setup.settings.device or "cpu") != "cpu":
        return "it runs only on the CPU (set 'device' to 'cpu')"
    return None


def find_unsupported_parameter(request: EncodedRequest) -> str | None:
    """See `EngineModule.find_unsupported_parameter`."""
    for name in ("presence_penalty", "frequency_penalty"):
        if value := getattr(request.sampling, name):
            return (
                f"{name} is {value}, but llama.cpp would also count the prompt's tokens; remove it, or use the"
                " checkpoint from which the GGUF file was converted"
            )
    return None


def create_engine(setup: EngineSetup, tokenizer: BaichuanTokenizer) -> Engine:
    """See `EngineModule.create_engine`."""
    return LlamaCppEngine(setup, tokenizer)
