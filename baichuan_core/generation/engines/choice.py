"""The choice of an engine for a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from baichuan_core.errors import UnsupportedError
from baichuan_core.generation.engines.contract import EncodedRequest, Engine, EngineModule, EngineSetup
from baichuan_core.generation.options import EngineName
from baichuan_core.tokenizer import BaichuanTokenizer

# In order of preference: `auto` chooses the first engine that can run the checkpoint.
ENGINE_MODULES: dict[EngineName, str] = {"vllm": "vllm", "llama_cpp": "llama_cpp", "transformers": "native"}


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The chosen engine and the reason for the choice."""

    name: EngineName
    reason: str


def choose_engine(setup: EngineSetup) -> EngineChoice:
    """Return the requested engine, or with `auto` the fastest one that can run the checkpoint on this machine.

    Raises:
        UnsupportedError: The requested engine cannot run it, or no engine can.
    """
    requested = setup.settings.engine
    if requested != "auto":
        if requested not in ENGINE_MODULES:
            raise UnsupportedError(f"engine {requested!r} does not exist; set 'engine' to 'auto'")
        if reason := _import_engine(requested).find_unsupported_reason(setup):
            raise UnsupportedError(f"engine {requested!r} cannot run this checkpoint: {reason}; set 'engine' to 'auto'")
        return EngineChoice(requested, "requested")
    reasons: list[str] = []
    for name in ENGINE_MODULES:
        reason = _import_engine(name).find_unsupported_reason(setup)
        if reason is None:
            return EngineChoice(name, "; ".join([*reasons, f"{name} can run it"]))
        reasons.append(f"not {name}: {reason}")
    raise UnsupportedError(f"no engine can run this checkpoint: {'; '.join(reasons)}")


def reject_unsupported_requests(name: EngineName, requests: Sequence[EncodedRequest]) -> None:
    """Reject requests with a parameter that the named engine does not support.

    Raises:
        UnsupportedError: The message names the request, the parameter and the engine.
    """
    for request in requests:
        if reason := _import_engine(name).find_unsupported_parameter(request):
            raise UnsupportedError(f"request {request.index + 1}: {reason}")


def create_engine(name: EngineName, setup: EngineSetup, tokenizer: BaichuanTokenizer) -> Engine:
    """Create the named engine; see `EngineModule.create_engine`."""
    return _import_engine(name).create_engine(setup, tokenizer)


def _import_engine(name: EngineName) -> EngineModule:
    return cast(EngineModule, import_module(f"baichuan_core.generation.engines.{ENGINE_MODULES[name]}"))
