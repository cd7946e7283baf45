"""llama.cpp's process: its contents, how it ends, and the errors of requests that are running then."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from baichuan_core import GenerationOptions, GenerationRequest, convert
from baichuan_core.errors import MemoryOccupiedError, UnsupportedError
from baichuan_core.generation import TextGenerator
from baichuan_core.generation.engines.contract import Capacity
from baichuan_core.generation.engines.llama_cpp import engine
from baichuan_core.generation.engines.llama_cpp.calls import CompletionClient
from baichuan_core.generation.engines.llama_cpp.characters import ByteTokenTable
from baichuan_core.generation.engines.llama_cpp.server import CHILD_SCRIPT, LlamaServer
from baichuan_core.generation.engines.outputs import StepOutputs
from examples.tiny_checkpoint import make_tiny_checkpoint

T = TypeVar("T")

ROOT = Path(__file__).parents[3]
PATIENCE = 600  # tenths of a second
WINDOW = 40_000
LIMIT = 30_000  # tokens: more than can be generated before the test reacts
LONG = GenerationOptions(
    max_new_tokens=LIMIT, temperature=0, repetition_penalty=1.0, batch_size=3, batch_tokens=3 * WINDOW
)
LONG_REQUESTS = [GenerationRequest(prompt="Redis only carries"), GenerationRequest(prompt="messages")]
SHORT = GenerationRequest(prompt="Redis", max_new_tokens=3)
PARENT = """
import sys
from pathlib import Path
from baichuan_core.generation.engines.contract import Capacity
from baichuan_core.generation.engines.llama_cpp.server import LlamaServer
server = LlamaServer(Path(sys.argv[1]), Capacity(1, 256), threads=1)
print("started", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a long context, whose greedy answers to `LONG_REQUESTS` never end by themselves."""
    checkpoint = make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"model_max_length": WINDOW}))
    convert(checkpoint, checkpoint.with_name("gguf"), "gguf", gguf_type="f32")
    return checkpoint.with_name("gguf")


@pytest.fixture
def generator(gguf: Path) -> Iterator[TextGenerator]:
    """A generator whose process has not been started yet."""
    generator = TextGenerator(gguf, LONG)
    yield generator
    generator.close()


def test_torch_is_not_in_the_process_and_the_key_not_on_its_command_line(generator: TextGenerator) -> None:
    generator.complete([SHORT])
    (process,) = processes(os.getpid())
    maps = Path(f"/proc/{process}/maps").read_text()
    assert "xllamacpp" in maps
    assert "torch" not in maps
    _, *arguments = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    assert arguments == [b"-P", bytes(CHILD_SCRIPT), b""]


@pytest.mark.parametrize("stream", [False, True])
def test_a_killed_process_fails_running_requests_and_the_next_run_starts_another(
    generator: TextGenerator, stream: bool
) -> None:
    steps = generator.run(generator.encode(LONG_REQUESTS), stream=stream)
    (process,) = processes(os.getpid())
    if stream:
        next(steps)
    os.kill(process, signal.SIGKILL)
    with pytest.raises(MemoryOccupiedError, match="batch_size"):
        list(steps)
    (answer,) = generator.complete([SHORT])
    assert answer.completion_tokens <= 3
    assert process not in processes(os.getpid())


def test_a_process_that_ends_otherwise_is_reported_with_its_exit_code(generator: TextGenerator) -> None:
    steps = generator.run(generator.encode(LONG_REQUESTS))
    (process,) = processes(os.getpid())
    os.kill(process, signal.SIGABRT)
    with pytest.raises(UnsupportedError, match="SIGABRT"):
        list(steps)


def test_ctrl_c_is_handled_by_the_parent_only(generator: TextGenerator) -> None:
    generator.complete([SHORT])
    (process,) = processes(os.getpid())
    os.kill(process, signal.SIGINT)
    assert generator.complete([SHORT])
    assert processes(os.getpid()) == {process}


def test_closing_a_stream_frees_its_slots(generator: TextGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[LlamaServer] = []

    def start(*arguments: Any, **named: Any) -> LlamaServer:
        started.append(LlamaServer(*arguments, **named))
        return started[0]

    monkeypatch.setattr(engine, "LlamaServer", start)
    steps = cast(Generator[StepOutputs], generator.run(generator.encode(LONG_REQUESTS), stream=True))
    answering: set[int] = set()
    while len(answering) < len(LONG_REQUESTS):  # aborting an answer that has not started would end the process instead
        answering |= {output.id for output in next(steps).outputs}
    steps.close()
    assert max(slot["n_prompt_tokens"] for slot in until_idle(started[0])) < LIMIT  # its answer is counted there, too


def test_concurrent_runs_share_a_process_and_do_not_affect_each_other(generator: TextGenerator) -> None:
    whole = [one.text for one in generator.complete([SHORT, SHORT])]
    long = generator.submit(LONG_REQUESTS[0])
    next(long)
    short = generator.run(generator.encode([SHORT, SHORT]))
    assert [one.text for step in short for one in step.completions] == whole
    assert len(processes(os.getpid())) == 1
    long.cancel()


def test_a_request_that_is_too_long_for_a_slot_waits_for_a_longer_one(generator: TextGenerator) -> None:
    stream = generator.submit(SHORT)
    assert stream.result()[0].completion_tokens <= 3
    (process,) = processes(os.getpid())
    assert generator.complete([SHORT])
    assert processes(os.getpid()) == {process}  # `submit` has started it with slots for the whole window
    generator.close()
    running = generator.run(generator.encode([replace(SHORT, max_new_tokens=200)]))
    (process,) = processes(os.getpid())
    longer = generator.run(generator.encode([replace(SHORT, max_new_tokens=300)]))
    for steps in (running, longer):
        assert [one.finish_reason for step in steps for one in step.completions]
    assert process not in processes(os.getpid())


def test_aborting_a_whole_completion_ends_the_process(
    generator: TextGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the bytes of incomplete characters cannot be inferred, the engine requests the completion again."""
    monkeypatch.setattr(ByteTokenTable, "infer_omitted_tokens", lambda *_: None)
    asked = threading.Event()
    whole = CompletionClient.complete

    def complete(self: CompletionClient, question: dict[str, Any]) -> Any:
        asked.set()
        return whole(self, question)

    monkeypatch.setattr(CompletionClient, "complete", complete)
    steps = cast(Generator[StepOutputs], generator.run(generator.encode(LONG_REQUESTS[:1])))
    assert asked.wait(60)
    generator.close()
    with pytest.raises(UnsupportedError, match="was closed"):
        list(steps)
    assert not processes(os.getpid())
    monkeypatch.undo()
    assert generator.complete([SHORT])


def test_the_process_ends_with_its_generator(gguf: Path) -> None:
    generator = TextGenerator(gguf, LONG)
    next(generator.stream([SHORT]))
    assert len(processes(os.getpid())) == 1
    del generator
    until(lambda: not processes(os.getpid()))


@pytest.mark.alone
@pytest.mark.parametrize("ending", ["killed", "by itself"])
def test_the_process_is_in_its_parents_group_and_ends_with_it(gguf: Path, ending: str) -> None:
    command = [sys.executable, "-c", PARENT, str(gguf / "model.gguf")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        (process,) = processes(parent.pid)
        assert os.getpgid(process) == os.getpgid(parent.pid)
        if ending == "killed":
            parent.kill()
        else:
            parent.communicate()
    until(lambda: not Path(f"/proc/{process}").exists() or state(process) == "Z")


def test_requests_without_the_key_are_rejected(gguf: Path) -> None:
    server = LlamaServer(gguf / "model.gguf", Capacity(1, 256), threads=1)
    question = json.dumps({"prompt": [5], "n_predict": 1})
    assert ask(server, "POST", "/completion", question, {})[0] == HTTPStatus.UNAUTHORIZED
    assert ask(server, "POST", "/completion", question, server.headers)[0] == HTTPStatus.OK


def processes(parent: int) -> set[int]:
    """List the llama.cpp processes that a process has started."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # other processes may end meanwhile
            its_parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if its_parent == parent and bytes(CHILD_SCRIPT) in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
    return found


def state(process: int) -> str:
    """Return the state of a process as a letter; Z means that it has ended."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def until_idle(server: LlamaServer) -> list[dict[str, Any]]:
    """Wait until all slots are idle, and return them."""

    def look() -> list[dict[str, Any]] | None:
        slots: list[dict[str, Any]] = ask(server, "GET", "/slots", None, server.headers)[1]
        return None if any(slot["is_processing"] for slot in slots) else slots

    return until(look)


def ask(server: LlamaServer, method: str, path: str, content: str | None, headers: dict[str, str]) -> tuple[int, Any]:
    """Send a request, and return the status and the response."""
    with closing(HTTPConnection("127.0.0.1", server.port)) as connection:
        connection.request(method, path, content, headers)
        response = connection.getresponse()
        return response.status, json.load(response)


def until(look: Callable[[], T | None]) -> T:
    """Call a function until it returns a true value."""
    for _ in range(PATIENCE):
        if seen := look():
            return seen
        time.sleep(0.1)
    raise AssertionError("waited in vain")
