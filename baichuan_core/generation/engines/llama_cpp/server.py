"""llama.cpp's server in a separate process, where torch's idle threads do not slow it down."""

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

CHILD_SCRIPT = Path(__file__).with_name("child.py")
# GOMP_SPINCOUNT sets how many times a waiting OpenMP thread spins before it sleeps. 3000 is as fast as the default
# (300,000) on an idle machine and 3x as fast on a busy one, where spinning threads take cores from the threads they
# wait for.
SERVER_ENVIRONMENT = {"GOMP_SPINCOUNT": "3000", "GGML_NO_BACKTRACE": "1"}
EXIT_TIMEOUT_SECONDS = 5  # how long to wait for the server's process to exit after a connection breaks


class LlamaServer:
    """A GGUF model served on a local port. The server exits with this object or with the process that started it.

    Attributes:
        capacity: The capacity with which the server was started.
        port: The server's port on 127.0.0.1.
        headers: HTTP headers for every request, including a random key that keeps other processes out.
        end: Kills the process and waits for it to exit.
    """

    def __init__(self, model: Path, capacity: Capacity, threads: int) -> None:
        """Start the process and load the model.

        Raises:
            CheckpointError: llama.cpp cannot load the file.
            MemoryOccupiedError: The system killed the process.
            UnsupportedError: The process exited for another reason.
        """
        self.capacity = capacity
        key = secrets.token_hex(32)
        self.headers = {
            "Authorization": f"Bearer {key}",
            "Content-Type": "application/json",
            "Connection": "close",  # so that the end of a stream wakes its reader, see `read_events`
        }
        self._process = subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, "-P", str(CHILD_SCRIPT)],  # -P: keep the script's directory out of sys.path
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**SERVER_ENVIRONMENT, **os.environ},
        )
        self.end = weakref.finalize(self, _kill_process, self._process)
        answer = self._send_settings({"model": str(model), "threads": threads, "key": key, **asdict(capacity)})
        if "refusal" in answer:
            raise CheckpointError(
                f"llama.cpp cannot load {model}: the file is damaged, does not fit in memory, or has an unsupported "
                "architecture; convert the checkpoint again"
            )
        self.port = urlsplit(answer["address"]).port or 0

    @property
    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def build_failure_error(self) -> BaichuanError:
        """Return an error that explains why the server no longer responds."""
        try:
            code = self._process.wait(EXIT_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            return UnsupportedError("llama.cpp's server closed a connection; see the log for the cause")
        if code == -signal.SIGKILL:
            # There was enough memory when the job was admitted, so other processes must have taken it since.
            return MemoryOccupiedError(
                "llama.cpp's process was killed, most likely because memory ran out; "
                "run fewer or shorter completions at the same time (batch_size, max_new_tokens), or use a smaller GGUF"
                " type"
            )
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return UnsupportedError(f"llama.cpp's process exited ({cause}); see the log for the cause")

    def _send_settings(self, settings: dict[str, Any]) -> dict[str, str]:
        """Send the settings to the process and return its response."""
        stdin, stdout = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        with suppress(BrokenPipeError):
            stdin.write(json.dumps(settings).encode() + b"\n")
            stdin.flush()
        if line := stdout.readline():
            answer: dict[str, str] = json.loads(line)
            return answer
        if self._process.wait() == -signal.SIGABRT:  # llama.cpp aborts if it reads an invalid file
            return {"refusal": "aborted"}
        raise self.build_failure_error()


def _kill_process(process: subprocess.Popen[bytes]) -> None:
    with process:  # closes the process's pipes and waits for it to exit
        process.kill()
