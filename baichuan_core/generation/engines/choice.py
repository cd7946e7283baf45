"""Which engine runs, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from baichuan_core.errors import UnsupportedError
from baichuan_core.generation.engines.contract import EncodedRequest, Engine, EngineModule, EngineSetup
from baichuan_core.generation.options import EngineName
from baichuan_core.tokenizer import BaichuanTokenizer

# In order of preference: `auto` takes the first that has no obstacle.
MODULES: dict[EngineName, str] = {"vllm": "vllm", "llama_cpp": "llama_cpp", "transformers": "native"}


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The engine that runs, and what spoke for it."""

    name: EngineName
    reason: str


def choose_engine(setup: EngineSetup) -> EngineChoice:
    """The engine that was asked for, or with ``auto`` the fastest that can run the checkpoint here.

    Raises:
        UnsupportedError: The engine asked for cannot run it, or none can.
    """
    asked = setup.settings.engine
    if asked != "auto":
        if asked not in MODULES:
            raise UnsupportedError(f"engine {asked!r} is not there; leave 'engine' at 'auto'")
        if obstacle := _module(asked).obstacle(setup):
            raise UnsupportedError(f"engine {asked!r} cannot run this: {obstacle}; leave 'engine' at 'auto'")
        return EngineChoice(asked, "asked for")
    obstacles: list[str] = []
    for name in MODULES:
        obstacle = _module(name).obstacle(setup)
        if obstacle is None:
            return EngineChoice(name, "; ".join([*obstacles, f"{name} runs it"]))
        obstacles.append(f"not {name}: {obstacle}")
    raise UnsupportedError(f"no engine can run this: {'; '.join(obstacles)}")


def check_requests(name: EngineName, requests: Sequence[EncodedRequest]) -> None:
    """Reject requests that the engine of this name cannot answer as they say.

    Raises:
        UnsupportedError: The message names the request, the parameter and the engine.
    """
    for request in requests:
        if reason := _module(name).find_unsupported_parameter(request):
            raise UnsupportedError(f"request {request.index + 1}: {reason}")


def start_engine(name: EngineName, setup: EngineSetup, tokenizer: BaichuanTokenizer) -> Engine:
    """Loads the model into the engine of this name."""
    return _module(name).start(setup, tokenizer)


def _module(name: EngineName) -> EngineModule:
    return cast(EngineModule, import_module(f"baichuan_core.generation.engines.{MODULES[name]}"))
