"""The worker's side of chats against a real Redis, without a runner."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from jobs.chats import serving
from jobs.chats.client import ChatClient
from jobs.chats.messages import (
    REPLIES_ADAPTER,
    Abort,
    Call,
    ChatEnded,
    ChatRefused,
    ChatRequest,
    ChatsAlive,
    ChatStarted,
    Delta,
    Reply,
    call_queue_key,
    reply_stream_key,
)
from jobs.chats.serving import ChatExchange, ServedAttempt
from jobs.identifiers import new_id
from tests.workers.chatting import Asker
from tests.workers.deployment import RedisServer, wait_for


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for this module."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send heartbeats and check for lost processes often."""
    monkeypatch.setattr(serving, "BEAT_INTERVAL_SECONDS", 0.05)


@contextmanager
def opened(server: RedisServer) -> Iterator[tuple[str, ServedAttempt, list[Call]]]:
    """An attempt that accepts chats, with what reached its runner."""
    exchange, attempt_id = ChatExchange(server.url), new_id("att")
    calls: list[Call] = []
    served = exchange.open(attempt_id, calls.append)
    try:
        yield attempt_id, served, calls
    finally:
        served.close("leaving", "the test ends")


def test_calls_and_replies_reach_the_right_processes(redis_server: RedisServer) -> None:
    one, other = Asker(redis_server.url), Asker(redis_server.url)
    with opened(redis_server) as (attempt_id, served, calls):
        mine, theirs = one.ask(attempt_id, prompt="a"), other.ask(attempt_id, prompt="b")
        wait_for("both calls", lambda: len(calls) == 2)
        assert {call.id for call in calls if isinstance(call, ChatRequest)} == {mine, theirs}
        news: list[Reply] = [
            ChatStarted(mine, 0, 1),
            ChatStarted(theirs, 0, 1),
            Delta(mine, 1, 0, "é"),
            ChatEnded(mine, 2),
        ]
        served.forward(news)
        assert REPLIES_ADAPTER.dump_json(one.finish(mine)[0]) == REPLIES_ADAPTER.dump_json([news[0], *news[2:]])
        other.read_until(lambda: theirs in other.alive)
        for _ in range(2):  # a message may have been prepared before the chat ended
            one.read(0.01)
            one.alive.clear()
            other.alive.clear()
            other.read_until(lambda: theirs in other.alive)
        assert not one.alive
        served.forward([Delta(mine, 3, 0, "after the end")])
        other.abort(attempt_id, theirs)
        wait_for("the abort", lambda: Abort(theirs) in calls)
        served.forward([ChatEnded(theirs, 1)])
        assert not any(not isinstance(reply, ChatsAlive) for reply in [*one.read(0.2), *other.read(0.2)])


def test_replies_expire_even_if_redis_lost_them_during_a_chat(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "BEAT_INTERVAL_SECONDS", 3600)
    asker = Asker(redis_server.url)
    with opened(redis_server) as (attempt_id, served, calls):
        chat = asker.ask(attempt_id, prompt="a")
        wait_for("the call", lambda: len(calls) == 1)
        stream = reply_stream_key(calls[0].reply_to)  # type: ignore[union-attr]
        served.forward([ChatStarted(chat, 0, 1)])
        assert asker.redis.ttl(stream) > 0
        asker.redis.flushall()
        served.forward([Delta(chat, 1, 0, "text")])
        served.forward([Delta(chat, 2, 0, "text"), ChatEnded(chat, 3)])
        assert asker.redis.ttl(stream) > 0


def test_a_call_is_sent_although_redis_has_closed_the_idle_connections(redis_server: RedisServer) -> None:
    control = redis.Redis.from_url(redis_server.url)

    async def scenario() -> None:
        client = ChatClient(redis_server.url)
        async with client.running():
            for number in range(3):
                asks = (client.send_requests("att-x", {f"{number}.{each}": {"prompt": "a"}}) for each in range(4))
                await asyncio.gather(*asks)
                control.client_kill_filter(_type="normal", skipme=True)
                await asyncio.sleep(0.2)  # lets the event loop see that the connections are closed

    asyncio.run(scenario())
    assert control.llen(call_queue_key("att-x")) >= 12


def test_the_chats_of_a_lost_process_are_aborted(redis_server: RedisServer) -> None:
    asker = Asker(redis_server.url)
    with opened(redis_server) as (attempt_id, _, calls):
        chat = asker.ask(attempt_id, prompt="a")
        asker.read_until(lambda: chat in asker.alive)
        asker.vanish()
        wait_for("the abort", lambda: Abort(chat) in calls)


def test_the_end_of_an_attempt_ends_its_chats(redis_server: RedisServer) -> None:
    asker = Asker(redis_server.url)
    with opened(redis_server) as (attempt_id, served, calls):
        begun, waiting = asker.ask(attempt_id, prompt="a"), asker.ask(attempt_id, prompt="b")
        asker.redis.rpush(call_queue_key(attempt_id), "no call")
        wait_for("the calls", lambda: len(calls) == 2)
        served.forward([ChatStarted(begun, 0, 1)])
        served.close("failed", "killed")
        assert asker.last(begun) == ChatRefused(begun, 1, "failed", "killed")
        assert asker.last(waiting) == ChatRefused(waiting, 0, "failed", "killed")
        late = asker.ask(attempt_id, prompt="c")
        assert asker.last(late).reason == "leaving"
        assert len(calls) == 2
