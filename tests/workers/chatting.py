"""An API process for tests, which sends chats to serving attempts through Redis and collects their replies."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis

from jobs.chats.messages import (
    CALL_ADAPTER,
    REPLIES_ADAPTER,
    Abort,
    ChatEnded,
    ChatRefused,
    ChatRequest,
    ChatsAlive,
    Delta,
    Reply,
    call_queue_key,
    process_key,
    reply_stream_key,
)
from jobs.identifiers import new_id
from tests.workers.deployment import PATIENCE_SECONDS, Deployment


class Asker:
    """Simulates an API process.

    Attributes:
        replies: Replies by chat, in the order of their arrival.
        alive: Chats that were said to be alive.
    """

    def __init__(self, url: str) -> None:
        self.process_id = new_id("api")
        self.replies: dict[str, list[Any]] = {}
        self.alive: set[str] = set()
        self.redis = redis.Redis.from_url(url)
        self._last: bytes | str = "0"
        self.appear()

    def appear(self) -> None:
        """Send heartbeats from now on."""
        self.redis.set(process_key(self.process_id), 1)

    def vanish(self) -> None:
        """Stop the heartbeats, like a process that has ended."""
        self.redis.delete(process_key(self.process_id))

    def ask(self, attempt_id: str, **request: Any) -> str:
        """Send a chat and return its id."""
        chat_id = new_id("chat")
        self.redis.rpush(
            call_queue_key(attempt_id), CALL_ADAPTER.dump_json(ChatRequest(chat_id, self.process_id, request))
        )
        return chat_id

    def abort(self, attempt_id: str, chat_id: str) -> None:
        """Hang up."""
        self.redis.rpush(call_queue_key(attempt_id), CALL_ADAPTER.dump_json(Abort(chat_id)))

    def read(self, seconds: float = 1.0) -> list[Reply]:
        """Return the next entries, at least one unless the time is over."""
        found: Any = self.redis.xread({reply_stream_key(self.process_id): self._last}, block=int(seconds * 1000))
        news: list[Reply] = []
        for _, entries in found or ():
            for entry_id, fields in entries:
                self._last = entry_id
                news += REPLIES_ADAPTER.validate_json(fields[b"replies"])
        for reply in news:
            if isinstance(reply, ChatsAlive):
                self.alive.update(reply.ids)
            else:
                self.replies.setdefault(reply.id, []).append(reply)
        return news

    def read_until(self, condition: Callable[[], object]) -> None:
        """Read until a condition holds."""
        ends_at = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < ends_at, self.replies
            self.read()

    def finish(self, *chats: str) -> list[list[Any]]:
        """Return all replies to each of the chats once they have ended; their numbers have no gap."""
        self.read_until(lambda: all(self._has_ended(chat) for chat in chats))
        for chat in chats:
            assert [reply.number for reply in self.replies[chat]] == list(range(len(self.replies[chat])))
        return [self.replies[chat] for chat in chats]

    def last(self, chat: str) -> Any:
        """Return the last reply to a chat once it has ended."""
        return self.finish(chat)[0][-1]

    def deltas(self, chat: str) -> list[Delta]:
        """Return the text so far."""
        return [reply for reply in self.replies.get(chat, ()) if isinstance(reply, Delta)]

    def _has_ended(self, chat: str) -> bool:
        return isinstance(self.replies.get(chat, [None])[-1], ChatEnded | ChatRefused)


@contextmanager
def asking(service: Deployment) -> Iterator[Asker]:
    """An asker for a block."""
    asker = Asker(service.server.url)
    try:
        yield asker
    finally:
        asker.redis.delete(process_key(asker.process_id), reply_stream_key(asker.process_id))
        asker.redis.close()


def start_serving(service: Deployment, **fields: Any) -> tuple[str, str]:
    """Submit a serve job; returns its id and that of the attempt once it accepts chats."""
    job_id = service.submit(kind="serve", **fields)
    service.wait_for_progress(job_id, "serving")
    return job_id, service.attempts(job_id)[-1].id
