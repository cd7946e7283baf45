"""llama.cpp's server in a process of its own, where no idle threads of torch slow it down."""

import json
import os
import secrets
import signal
import subprocess
import sys
import weakref
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit

from baichuan_core.errors import BaichuanError, CheckpointError, MemoryOccupiedError, UnsupportedError
from baichuan_core.generation.engines.contract import Capacity

SCRIPT = Path(__file__).with_name("child.py")
# How often a thread looks before it sleeps until the others are done. As fast as the default (300,000) alone, and three
# times as fast beside other work, where threads that look take the cores of those that they wait for.
ENVIRONMENT = {"GOMP_SPINCOUNT": "3000", "GGML_NO_BACKTRACE": "1"}
SECONDS_TO_END = 5  # a connection may break a little before its process is gone


class LlamaServer:
    """A GGUF model behind a local port. Its process ends with this object or this process, whatever comes first.

    Attributes:
        capacity: What it was started for.
        port: Where it listens on 127.0.0.1.
        headers: Of every question; they hold the key that nobody else knows.
        end: Ends the process.
    """

    def __init__(self, model: Path, capacity: Capacity, threads: int) -> None:
        """Maps the model.

        Raises:
            CheckpointError: llama.cpp cannot read the file.
            MemoryOccupiedError: The system killed the process.
            UnsupportedError: The process ended otherwise.
        """
        self.capacity = capacity
        key = secrets.token_hex(32)
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._process = subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, "-P", str(SCRIPT)],  # -P: the modules beside it are no modules of the child's
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**ENVIRONMENT, **os.environ},
        )
        self.end = weakref.finalize(self, _end, self._process)
        told = self._tell({"model": str(model), "threads": threads, "key": key, **asdict(capacity)})
        if "refusal" in told:
            raise CheckpointError(
                f"llama.cpp cannot load {model}: it is damaged, of an architecture that it does not know, or larger "
                "than the memory; convert the checkpoint again"
            )
        self.port = urlsplit(told["address"]).port or 0

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process.poll() is None

    def death(self) -> BaichuanError:
        """Why it answers no more."""
        try:
            code = self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            return UnsupportedError("llama.cpp's server broke a connection off; the log may tell why")
        if code == -signal.SIGKILL:
            # What it needs had room when the job was let in: others have taken it since.
            return MemoryOccupiedError(
                "llama.cpp's process was killed, as the system does when memory runs out; "
                "take fewer or shorter completions at once (batch_size, max_new_tokens), or a smaller GGUF type"
            )
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return UnsupportedError(f"llama.cpp's process ended ({how}); the log may tell why")

    def _tell(self, settings: dict[str, Any]) -> dict[str, str]:
        """What the process answers."""
        stdin, stdout = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        with suppress(BrokenPipeError):
            stdin.write(json.dumps(settings).encode() + b"\n")
            stdin.flush()
        if line := stdout.readline():
            told: dict[str, str] = json.loads(line)
            return told
        if self._process.wait() == -signal.SIGABRT:  # llama.cpp's way to say that what it reads cannot be
            return {"refusal": "aborted"}
        raise self.death()


def _end(process: subprocess.Popen[bytes]) -> None:
    with process:  # closes its pipes and waits
        process.kill()
