"""Requests that are too large, too slow or not HTTP, sent to the API as a process."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.api.test_process import process

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
HUGE = 100 * 2**20


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a process that waits a second for requests."""
    home = tmp_path_factory.mktemp("bounded") / "home"
    with process(home, BAICHUAN_RECEIVE_SECONDS="1", BAICHUAN_MIN_BODY_BYTES_PER_SECOND="1000") as (_, made):
        yield made


def connect(client: httpx.Client) -> socket.socket:
    """Open a connection to the same server."""
    return socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=60)


def read_all(connection: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    received = b""
    with suppress(ConnectionResetError):
        while data := connection.recv(65_536):
            received += data
    return received


def problem_in(answer: bytes, status: int, code: str) -> None:
    """Check that the last answer is a problem document in both forms of errors."""
    head, _, body = answer[answer.rindex(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"content-type: application/problem+json" in head
    problem = json.loads(body)
    assert (problem["status"], problem["error"]["code"]) == (status, code)
    assert f"x-request-id: {problem['instance'].rpartition(':')[2]}".encode() in head


def send_until_rejected(connection: socket.socket, start: bytes, total: int) -> int:
    """Send a start and many bytes more until the server rejects them; return how many bytes were sent."""
    connection.sendall(start)
    sent = len(start)
    connection.setblocking(False)
    block = b"a" * 65_536
    while sent < total:
        with suppress(BlockingIOError):
            if not (received := connection.recv(65_536, socket.MSG_PEEK)) or b"HTTP/1.1 4" in received:
                break
        with suppress(BlockingIOError):
            sent += connection.send(block)
    connection.setblocking(True)
    return sent


@pytest.mark.integration
@pytest.mark.parametrize(
    "start",
    [
        GET + b"A: ",  # one value
        GET + b"A",  # one name
        b"GET /",  # the address
        GET + b"\r\n" + GET + b"A: ",  # of the second request
        CHUNKED + b"0\r\nA: ",  # trailers
    ],
    ids=["value", "name", "address", "second request", "trailers"],
)
def test_a_huge_header_is_rejected_without_delaying_others(client: httpx.Client, start: bytes) -> None:
    slowest = 0.0
    done = threading.Event()

    def ask() -> None:
        nonlocal slowest
        while not done.is_set():
            began = time.perf_counter()
            assert client.get("/healthz").status_code == 200
            slowest = max(slowest, time.perf_counter() - began)

    others = threading.Thread(target=ask)
    others.start()
    try:
        with connect(client) as connection:
            sent = send_until_rejected(connection, start, HUGE)
            answer = read_all(connection)
    finally:
        done.set()
        others.join()
    problem_in(answer, 431, "header_too_large")
    assert sent < HUGE
    assert slowest < 10  # 36 s without the limit


@pytest.mark.integration
@pytest.mark.parametrize(("size", "status"), [(32_000, 200), (33_000, 431)])
def test_the_limit_of_the_header_section(client: httpx.Client, size: int, status: int) -> None:
    with connect(client) as connection:
        for _ in range(3):  # each request of a connection has the whole limit
            header = GET + b"A: " + b"a" * (size - len(GET) - 7) + b"\r\n\r\n"
            assert len(header) == size
            connection.sendall(header)
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(65_536)
            assert answer.startswith(f"HTTP/1.1 {status} ".encode())
            if status != 200:
                break


@pytest.mark.integration
def test_many_requests_in_one_packet_are_all_served(client: httpx.Client) -> None:
    with connect(client) as connection:
        connection.sendall((GET + b"A: " + b"a" * 1000 + b"\r\n\r\n") * 200)
        received = b""
        while received.count(b'{"status":"ok"}') < 200:
            data = connection.recv(65_536)
            assert data
            received += data
        assert b"HTTP/1.1 431" not in received


def drip(connection: socket.socket, data: bytes) -> None:
    """Send data repeatedly until the server closes the connection."""
    with suppress(BrokenPipeError, ConnectionResetError):
        while True:
            connection.sendall(data)
            time.sleep(0.05)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("start", "dripped"),
    [
        (GET, b"A: b\r\n"),
        (b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n", b"a"),
        (CHUNKED, b"1\r\na\r\n"),
        (CHUNKED + b"0\r\n", b"A: b\r\n"),
        (b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n{key}\r\n", b"a"),
    ],
    ids=["header", "body", "chunks", "trailers", "upload"],
)
def test_slow_requests_are_cut_off(client: httpx.Client, start: bytes, dripped: bytes) -> None:
    upload = b"Authorization: " + client.headers["Authorization"].encode()
    upload += b'\r\nContent-Type: multipart/form-data; boundary="a"\r\n'
    with connect(client) as connection:
        connection.sendall(start.replace(b"{key}", upload))
        sender = threading.Thread(target=drip, args=[connection, dripped])
        sender.start()
        answer = read_all(connection)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        sender.join()
    problem_in(answer, 408, "request_timeout")


@pytest.mark.integration
def test_an_idle_connection_is_closed(client: httpx.Client) -> None:
    with connect(client) as connection:
        assert read_all(connection) == b""
    with connect(client) as connection:
        connection.sendall(GET + b"\r\n")
        drip(connection, b"\r\n")
        assert read_all(connection).count(b"HTTP/1.1") == 1


@pytest.mark.integration
def test_a_body_that_is_sent_fast_enough_is_received(client: httpx.Client) -> None:
    def paced() -> Iterator[bytes]:
        for _ in range(50):  # 2.5 s, several times the window
            time.sleep(0.05)
            yield bytes(1000)

    answer = client.post("/v1/models", content=paced(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 400


@pytest.mark.integration
def test_what_follows_an_upgrade_is_not_mistaken_for_a_request(client: httpx.Client) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
    with connect(client) as connection:
        connection.sendall(GET + upgrade + b"Content-Length: 9999\r\n\r\n")
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(GET + b"\r\n")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.integration
@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"BREW /v1/jobs HTTP/1.1\r\nHost: x\r\n\r\n", 501, "unknown_method"),
        (b"nonsense\r\n\r\n", 501, "unknown_method"),
        (b"GET /healthz HTTP/1.1\r\nbad header\r\n\r\n", 400, "invalid_http"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400, "invalid_http"),
        (b"PROPFIND /v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405, "method_not_allowed"),
    ],
)
def test_what_is_not_http_gets_a_problem_document(
    client: httpx.Client, request_: bytes, status: int, code: str
) -> None:
    with connect(client) as connection:
        connection.sendall(request_)
        problem_in(read_all(connection), status, code)


@pytest.mark.integration
def test_a_refused_request_leaves_nothing_behind(tmp_path: Path) -> None:
    both = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    with process(tmp_path / "home", BAICHUAN_RECEIVE_SECONDS="1") as (running, client):
        for request in (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", both):
            with connect(client) as connection:
                connection.sendall(request)
                assert b"HTTP/1.1 4" in read_all(connection)
        with connect(client) as connection:
            assert read_all(connection) == b""  # it times out after the requests before it
        running.terminate()
        assert running.stderr is not None
        assert "Traceback" not in running.stderr.read()
