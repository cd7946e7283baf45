"""The API process's side of chats: sends requests to serving attempts and passes on their replies.

Each process has one stream of replies in Redis. While chats are open, one task reads this stream, and another renews
the key that tells workers that the process is alive.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from jobs.chats.messages import (
    CALL_ADAPTER,
    REPLIES_ADAPTER,
    Abort,
    Call,
    ChatEnded,
    ChatRefused,
    ChatRequest,
    ChatsAlive,
    ChatStarted,
    ChoiceEnded,
    Delta,
    Reply,
    call_queue_key,
    process_key,
    reply_stream_key,
)
from jobs.identifiers import new_id

PROCESS_KEY_TTL_SECONDS = 10  # without this key, workers consider the process dead and abort its chats
RENEWAL_INTERVAL_SECONDS = 3.0
CALL_TTL_SECONDS = 60  # a call that no worker reads within this time expires
READ_BLOCK_MS = 1000
CONNECT_TIMEOUT_SECONDS = 1.0
RETRY_INTERVAL_SECONDS = 0.5  # pause between retries while Redis is unreachable
LOST_REPLIES_MESSAGE = "replies were lost in transit; send the request again"

log = logging.getLogger(__name__)

ChatReply = ChatStarted | Delta | ChoiceEnded | ChatEnded | ChatRefused


class OpenChat:
    """One or more requests that an attempt answers together; replies are numbered separately for each request.

    Attributes:
        attempt_id: The attempt that answers.
        ids: Ids of the requests, in order.
    """

    def __init__(self, attempt_id: str, ids: Sequence[str]) -> None:
        self.attempt_id = attempt_id
        self.ids = ids
        self.heard = time.monotonic()
        self._expected = dict.fromkeys(ids, 0)  # number of the next reply, for each request that has not ended
        self._index = {chat_id: index for index, chat_id in enumerate(ids)}
        self._news: list[tuple[int, ChatReply]] = []
        self._arrived = asyncio.Event()

    @property
    def open_ids(self) -> list[str]:
        """Ids of the requests that have not ended."""
        return list(self._expected)

    @property
    def silent_seconds(self) -> float:
        """Seconds since the last reply or `ChatsAlive` message."""
        return time.monotonic() - self.heard

    def deliver(self, reply: ChatReply) -> None:
        """Accept a reply unless it is a duplicate, and end the request if an earlier reply is missing."""
        self.heard = time.monotonic()
        expected = self._expected.get(reply.id)
        if expected is None or reply.number < expected:
            return
        if reply.number > expected:
            reply = ChatRefused(reply.id, expected, "failed", LOST_REPLIES_MESSAGE)
        if isinstance(reply, ChatEnded | ChatRefused):
            del self._expected[reply.id]
        else:
            self._expected[reply.id] += 1
        self._news.append((self._index[reply.id], reply))
        self._arrived.set()

    async def wait_for_replies(self, seconds: float) -> list[tuple[int, ChatReply]]:
        """Wait up to `seconds` for replies; return all that have arrived, each with the index of its request."""
        if not self._news:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._arrived.wait()
        news, self._news = self._news, []
        self._arrived.clear()
        return news

    def put_back(self, news: Iterable[tuple[int, ChatReply]]) -> None:
        """Put replies back at the front of the queue."""
        self._news[:0] = news
        if self._news:
            self._arrived.set()


class ChatClient:
    """Sends chats to serving attempts. Without open chats, it only keeps a connection to Redis open.

    Args:
        redis_url: URL of the Redis server through which calls and replies travel.
    """

    def __init__(self, redis_url: str) -> None:
        self.process_id = new_id("api")
        self._url = redis_url
        self._chats: dict[str, OpenChat] = {}
        self._busy = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._redis = Redis.from_url(
            redis_url,
            socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
            socket_timeout=5,
            # With these notifications, redis-py 8.1 does not notice that the server has closed an idle connection.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read replies while the block runs."""
        tasks = [asyncio.create_task(self._read_replies()), asyncio.create_task(self._renew_process_key())]
        try:
            yield
        finally:
            for chat in set(self._chats.values()):
                self.close_chat(chat)
            await asyncio.gather(*self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(RedisError, OSError):
                await self._redis.delete(process_key(self.process_id), reply_stream_key(self.process_id))
            await self._redis.aclose()

    async def send_requests(self, attempt_id: str, requests: Mapping[str, Mapping[str, Any]]) -> OpenChat:
        """Send requests to an attempt.

        Args:
            attempt_id: An attempt that accepts chats.
            requests: Fields of each request, see `ChatRequest`, by the request's id.

        Raises:
            RedisError: Redis is unreachable.
            OSError: Redis is unreachable.
        """
        chat = OpenChat(attempt_id, list(requests))
        self._chats.update(dict.fromkeys(requests, chat))
        self._busy.set()
        try:
            await self._send_calls(
                attempt_id, [ChatRequest(each, self.process_id, fields) for each, fields in requests.items()]
            )
        except BaseException:
            self.close_chat(chat)
            raise
        return chat

    def close_chat(self, chat: OpenChat) -> None:
        """Forget a chat and abort its open requests in the background, because the caller may already be cancelled."""
        for chat_id in chat.ids:
            self._chats.pop(chat_id, None)
        if not self._chats:
            self._busy.clear()
        if calls := [Abort(chat_id) for chat_id in chat.open_ids]:
            task = asyncio.create_task(self._send_aborts(chat.attempt_id, calls))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send_aborts(self, attempt_id: str, calls: Sequence[Call]) -> None:
        try:
            await self._send_calls(attempt_id, calls)
        except (RedisError, OSError) as error:
            log.warning("cannot abort chats of attempt %s, so they continue: %s", attempt_id, error)

    async def _send_calls(self, attempt_id: str, calls: Sequence[Call]) -> None:
        queue = call_queue_key(attempt_id)
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.set(process_key(self.process_id), 1, ex=PROCESS_KEY_TTL_SECONDS)
            pipeline.rpush(queue, *(CALL_ADAPTER.dump_json(call) for call in calls))
            pipeline.expire(queue, CALL_TTL_SECONDS)
            await pipeline.execute()

    async def _read_replies(self) -> None:
        last: bytes | str = "0"
        client = Redis.from_url(
            self._url, socket_connect_timeout=CONNECT_TIMEOUT_SECONDS, socket_timeout=READ_BLOCK_MS / 1000 + 2
        )
        async with client:
            while True:
                await self._busy.wait()
                try:
                    found = await client.xread({reply_stream_key(self.process_id): last}, block=READ_BLOCK_MS)
                except (RedisError, OSError) as error:
                    log.warning("cannot read replies to chats: %s", error)
                    await asyncio.sleep(RETRY_INTERVAL_SECONDS)
                    continue
                for entry_id, fields in list_entries(found):
                    last = entry_id
                    self._deliver_replies(fields.get(b"replies", b""))

    def _deliver_replies(self, text: bytes) -> None:
        try:
            replies: list[Reply] = REPLIES_ADAPTER.validate_json(text)
        except ValidationError as error:  # the affected chats will see a gap in the sequence numbers and fail
            log.error("dropped malformed replies to chats: %s", error)  # noqa: TRY400
            return
        now = time.monotonic()
        for reply in replies:
            if isinstance(reply, ChatsAlive):
                for chat_id in reply.ids:
                    if chat := self._chats.get(chat_id):
                        chat.heard = now
            elif chat := self._chats.get(reply.id):
                chat.deliver(reply)

    async def _renew_process_key(self) -> None:
        while True:
            await self._busy.wait()
            with suppress(RedisError, OSError):
                await self._redis.set(process_key(self.process_id), 1, ex=PROCESS_KEY_TTL_SECONDS)
            await asyncio.sleep(RENEWAL_INTERVAL_SECONDS)


def list_entries(found: Any) -> list[tuple[bytes, Mapping[bytes, bytes]]]:
    """Return the entries of the single stream in a reply to XREAD, for either version of Redis's protocol."""
    streams = found.values() if isinstance(found, Mapping) else [entries for _, entries in found or ()]
    flat: list[tuple[bytes, Mapping[bytes, bytes]]] = []
    for entries in streams:
        flat += entries[0] if entries and isinstance(entries[0], list) else entries
    return flat
