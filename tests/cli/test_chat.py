"""`baichuan chat` against a small server that speaks OpenAI's streaming format, through a pipe and in a terminal."""

import json
import os
import pty
import select
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cli.exit_codes import ExitCode
from tests.cli.shell import BAICHUAN, Shell

FULL = {"title": "Too many requests", "status": 429, "detail": "model 'full' waits for room", "error": {"param": None}}


class Handler(BaseHTTPRequestHandler):
    """Repeats the last message word by word."""

    asked: list[dict[str, Any]]
    hung_up: threading.Event

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        if body["model"] == "full":
            self.send_response(429)
            self.end_headers()
            self.wfile.write(json.dumps(FULL).encode())
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        text = body["messages"][-1]["content"]
        self.wfile.write(b": still here\n\n")
        for word in text.split(" "):
            self._send({"choices": [{"index": 0, "delta": {"content": f"<{word}>"}, "finish_reason": None}]})
        if text == "endless":
            self._write_until_hang_up()
            return
        if text == "die":
            self._send({"error": {"message": "the runner was killed", "code": "worker_lost"}})
            return
        self._send({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self.wfile.write(b"data: [DONE]\n\n")

    def _write_until_hang_up(self) -> None:
        try:
            while True:
                self._send({"choices": [{"index": 0, "delta": {"content": "on "}, "finish_reason": None}]})
                time.sleep(0.02)
        except OSError:
            self.hung_up.set()

    def _send(self, chunk: Any) -> None:
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


class Service:
    """The server, and a shell that uses it."""

    def __init__(self, directory: Path) -> None:
        asked: list[dict[str, Any]] = []
        hung_up = threading.Event()
        recorder = type("Recorder", (Handler,), {"asked": asked, "hung_up": hung_up})
        self.asked, self.hung_up = asked, hung_up  # bodies of all requests; whether a client left an answer early
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), recorder)
        self.shell = Shell(directory)
        self.variables = {"BAICHUAN_URL": f"http://127.0.0.1:{self.server.server_port}", "BAICHUAN_API_KEY": "key"}
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A separate server."""
    service = Service(tmp_path)
    yield service
    service.server.shutdown()
    service.server.server_close()


def contents(body: dict[str, Any]) -> list[str]:
    """The messages of a request."""
    return [message["content"] for message in body["messages"]]


def test_a_conversation_through_a_pipe(service: Service) -> None:
    lines = 'first\n\n"""\ntwo\nlines\n"""\n/clear\nthird\n/system be brief\n"""\n/fourth\n"""\n/exit\nnever\n'
    options = ("--temperature", "0", "--max-tokens", "7", "--adapter", "mine", "--wait", "5", "--system", "old")
    done = service.shell("chat", "tiny", *options, stdin=lines, **service.variables)
    assert (done.code, done.out) == (0, "<first>\n<two\nlines>\n<third>\n</fourth>\n"), done.err
    assert [contents(body) for body in service.asked] == [
        ["old", "first"],
        ["old", "first", "<first>", "two\nlines"],
        ["old", "third"],
        ["be brief", "/fourth"],
    ]
    given = {name: value for name, value in service.asked[0].items() if name != "messages"}
    assert given == {
        "model": "tiny",
        "stream": True,
        "temperature": 0.0,
        "max_tokens": 7,
        "baichuan": {"wait_seconds": 5, "adapter": "mine"},
    }


def test_errors_end_a_pipe_with_their_code(service: Service) -> None:
    full = service.shell("chat", "full", stdin="a\nb\n", **service.variables)
    assert (full.code, len(service.asked)) == (ExitCode.REFUSED, 1)
    assert "model 'full' waits for room (status 429)" in full.err
    died = service.shell("chat", "tiny", stdin="die\n", **service.variables)
    assert (died.code, died.out) == (ExitCode.FAILED, "<die>\n")
    assert "the answer was cut off: the runner was killed" in died.err
    away = service.shell("chat", "tiny", stdin="a\n", **{**service.variables, "BAICHUAN_URL": "http://127.0.0.1:9"})
    assert away.code == ExitCode.UNREACHABLE


def test_in_a_terminal_ctrl_c_ends_the_answer_and_ctrl_d_the_conversation(service: Service) -> None:
    main, side = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", BAICHUAN, "chat", "tiny"],  # Ctrl-C needs a controlling terminal
        cwd=service.shell.directory,
        env=service.shell.variables(service.variables),
        stdin=side,
        stdout=side,
        stderr=side,
    )
    os.close(side)
    shown = b""

    def wait_for(text: bytes, *, press: bytes = b"") -> None:
        """Wait for a text; press a key before, and again if nothing is shown for a second.

        A program that has just printed its prompt may not wait for input yet, and then notices Ctrl-C late.
        """
        nonlocal shown
        os.write(main, press)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if text in shown:
                shown = shown.split(text, 1)[1]
                return
            if select.select([main], [], [], 1)[0]:
                shown += os.read(main, 4096)
            else:
                os.write(main, press)
        raise AssertionError(f"{text!r} is not shown after {shown!r}")

    wait_for(b"> ")
    os.write(main, b"endless\n")
    wait_for(b"on on ")
    wait_for(b"(stopped)", press=b"\x03")
    assert service.hung_up.wait(30)
    wait_for(b"> ")
    os.write(main, b"die\n")
    wait_for(b"error: the answer was cut off")
    wait_for(b"> ")
    os.write(main, b"/what\n")
    wait_for(b"/what is not a command")
    wait_for(b"> ")
    wait_for(b"(Ctrl-D ends the chat)", press=b"\x03")
    wait_for(b"> ")
    os.write(main, b"\x04")
    assert process.wait(30) == 0
    os.close(main)
    assert contents(service.asked[1])[0] == "endless"
    assert contents(service.asked[1])[1].startswith("<endless>on ")
