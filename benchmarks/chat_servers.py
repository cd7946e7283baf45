"""The servers that `benchmarks.chat` compares the service with, and the models that both sides run."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from baichuan_core import convert
from baichuan_core.conversion import GgufType
from baichuan_core.generation.engines.contract import Capacity
from baichuan_core.generation.engines.llama_cpp.server import LlamaServer
from benchmarks.real_model import CACHE
from tests.workers.deployment import free_port

WINDOW = 500  # slots have 512 tokens, so that many fit into the memory
VLLM_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # as in our engine
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
START_TIMEOUT_SECONDS = 300  # vLLM compiles the model


@dataclass(frozen=True, slots=True)
class BaselineServer:
    """A running server.

    Attributes:
        url: Its base URL.
        key: Its API key.
        end: Ends the process.
        process: The object that represents the process, kept because the process may end with it.
        group: Its process group, if it has one of its own.
    """

    url: str
    key: str
    end: Callable[[], object]
    process: object
    group: int | None = None

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Suspend the server while the block runs, because vLLM's idle worker polls and takes a whole core."""
        if self.group is None:
            yield
            return
        os.killpg(self.group, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.group, signal.SIGCONT)


def make_gguf_model(gguf_type: GgufType) -> Path:
    """Return the model as a GGUF file, with a short window."""
    model = CACHE / f"smollm2-{gguf_type}-{WINDOW}"
    if not model.is_dir():
        convert(CACHE / "smollm2", model, "gguf", gguf_type=gguf_type)
        _write_config(model, _read_config(model))
    return model


def make_checkpoint() -> Path:
    """Return the model as a checkpoint, with a short window."""
    model, source = CACHE / f"smollm2-{WINDOW}", CACHE / "smollm2"
    if not model.is_dir():
        model.mkdir()
        for file in source.iterdir():
            (model / file.name).hardlink_to(file)
        config = _read_config(source)
        (model / "config.json").unlink()
        _write_config(model, config)
    return model


def start_llama_cpp(model: Path, capacity: Capacity, threads: int) -> BaselineServer:
    """Start llama.cpp's own server."""
    server = LlamaServer(model / "model.gguf", capacity, threads)
    key = server.headers["Authorization"].removeprefix("Bearer ")
    return BaselineServer(f"http://127.0.0.1:{server.port}", key, server.end, server)


def start_vllm(model: Path, capacity: Capacity, threads: int) -> BaselineServer:
    """Start vLLM's own server, the module that `vllm serve` runs; this needs an environment with vLLM."""
    port, key = free_port(), secrets.token_hex(16)
    arguments = {
        "model": str(model),
        "served-model-name": model.name,
        "host": "127.0.0.1",
        "port": str(port),
        "api-key": key,
        "dtype": _read_config(model)["dtype"],
        "max-model-len": str(WINDOW),
        "max-num-seqs": str(capacity.slots),
        "generation-config": "vllm",
    }
    options = [part for name, value in arguments.items() for part in (f"--{name}", value)]
    with (CACHE / "vllm-server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *options],
            env={**os.environ, **VLLM_ENVIRONMENT, "OMP_NUM_THREADS": str(threads)},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def end() -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    server = BaselineServer(f"http://127.0.0.1:{port}", key, end, process, group=process.pid)
    wait_until_answering(server.url, server.key, model.name)
    return server


def wait_until_answering(url: str, key: str, model: str) -> None:
    """Wait until a server completes a prompt.

    Raises:
        TimeoutError: It did not after `START_TIMEOUT_SECONDS`.
    """
    body, ends_at = {"model": model, "prompt": "Hello", "max_tokens": 2}, time.monotonic() + START_TIMEOUT_SECONDS
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=120) as client:
        while time.monotonic() < ends_at:
            try:
                if client.post("/v1/completions", json=body).is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(1)
    raise TimeoutError(f"{url} does not answer; see the logs in {CACHE}")


def _read_config(model: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((model / "config.json").read_text())
    return config


def _write_config(model: Path, config: dict[str, Any]) -> None:
    (model / "config.json").write_text(json.dumps({**config, "model_max_length": WINDOW}, indent=2))
