"""The worker's side of chats: reads calls to its serving attempts from Redis and writes their replies to Redis."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import redis
from pydantic import ValidationError
from redis.exceptions import RedisError

from jobs.chats.messages import (
    CALL_ADAPTER,
    REPLIES_ADAPTER,
    Abort,
    Call,
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

BEAT_INTERVAL_SECONDS = 1.0  # time between two `ChatsAlive` messages
# An API process is considered dead once its key has been missing at this many consecutive checks, one per beat. Must be
# more than one, because keys are lost when Redis restarts.
MAX_MISSED_BEATS = 4
MAX_STREAM_ENTRIES = 10_000
STREAM_TTL_SECONDS = 60  # a stream expires this long after the last reply that is not a `Delta`
REFUSAL_PERIOD_SECONDS = 5.0  # calls are refused for this long after the attempt has ended; later ones expire unread
MAX_CALLS_PER_READ = 256
CONNECT_TIMEOUT_SECONDS = 1.0
RESPONSE_TIMEOUT_SECONDS = 3.0
RETRY_INTERVAL_SECONDS = 0.5  # pause between retries while Redis is unreachable

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ServedChat:
    """A chat that has not ended: the API process that is waiting for it, and the number of its next reply."""

    process_id: str
    number: int = 0


class ChatExchange:
    """Sends and receives the chat messages of all serving attempts of a worker.

    Args:
        redis_url: URL of the Redis server through which calls and replies travel.
    """

    def __init__(self, redis_url: str) -> None:
        self._redis = redis.Redis.from_url(
            redis_url, socket_connect_timeout=CONNECT_TIMEOUT_SECONDS, socket_timeout=RESPONSE_TIMEOUT_SECONDS
        )

    def open(self, attempt_id: str, deliver: Callable[[Call], None]) -> "ServedAttempt":
        """Start delivering calls to an attempt from a separate thread; the caller must close the returned object."""
        served = ServedAttempt(self._redis, attempt_id, deliver)
        served.start()
        return served

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()


class ServedAttempt:
    """The chats of one attempt.

    Its thread reads calls and sends `ChatsAlive` messages. If the runner no longer reads, only this thread blocks.
    """

    def __init__(self, client: redis.Redis, attempt_id: str, deliver: Callable[[Call], None]) -> None:
        self._redis = client
        self._attempt_id = attempt_id
        self._queue = call_queue_key(attempt_id)
        self._deliver = deliver
        self._lock = threading.Lock()
        self._open: dict[str, ServedChat] = {}
        self._missing: dict[str, int] = {}  # number of consecutive beats without a key, by API process
        self._closed_at: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"chats of {attempt_id}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def forward(self, replies: Sequence[Reply]) -> None:
        """Append the runner's replies to the streams of the API processes that are waiting for them."""
        streams: dict[str, list[Reply]] = {}
        with self._lock:
            for reply in replies:
                if isinstance(reply, ChatsAlive) or (chat := self._open.get(reply.id)) is None:
                    continue  # the chat was aborted in the meantime
                chat.number = reply.number + 1
                if isinstance(reply, ChatEnded | ChatRefused):
                    del self._open[reply.id]
                streams.setdefault(chat.process_id, []).append(reply)
        self._append_replies(streams)

    def close(self, reason: Literal["leaving", "failed"], message: str) -> None:
        """End all open chats without waiting; new ones are refused in the background for a few seconds."""
        with self._lock:
            self._closed_at = time.monotonic()
            chats, self._open = self._open, {}
        streams: dict[str, list[Reply]] = {}
        for chat_id, chat in chats.items():
            streams.setdefault(chat.process_id, []).append(ChatRefused(chat_id, chat.number, reason, message))
        self._append_replies(streams)

    def _run(self) -> None:
        beat_at = time.monotonic() + BEAT_INTERVAL_SECONDS
        while not self._has_ended():
            try:
                self._take_calls(max(0.01, beat_at - time.monotonic()))
                if time.monotonic() >= beat_at:
                    beat_at = time.monotonic() + BEAT_INTERVAL_SECONDS
                    self._send_alive_messages()
            except (RedisError, OSError) as error:
                log.warning("%s: Redis is not responding, so no chats can be received: %s", self._attempt_id, error)
                time.sleep(RETRY_INTERVAL_SECONDS)
            except Exception:
                log.exception("%s: unexpected error while receiving chats; a chat may be lost", self._attempt_id)

    def _has_ended(self) -> bool:
        return self._closed_at is not None and time.monotonic() - self._closed_at > REFUSAL_PERIOD_SECONDS

    def _take_calls(self, seconds: float) -> None:
        """Wait up to `seconds` for a call; deliver it and any others in the queue."""
        found = self._redis.blpop([self._queue], timeout=seconds)
        if found is not None:
            self._receive_call(found[1])
            more = self._redis.lpop(self._queue, MAX_CALLS_PER_READ)
            for text in more if isinstance(more, list) else ():
                self._receive_call(text)

    def _receive_call(self, text: bytes | str) -> None:
        try:
            call = CALL_ADAPTER.validate_json(text)
        except ValidationError as error:
            log.error("%s: dropped a malformed call: %s", self._attempt_id, error)  # noqa: TRY400
            return
        with self._lock:
            is_closed = self._closed_at is not None
            if isinstance(call, Abort):
                self._open.pop(call.id, None)
            elif not is_closed:
                self._open[call.id] = ServedChat(call.reply_to)
        if not is_closed:
            self._deliver(call)
        elif isinstance(call, ChatRequest):
            self._append_replies({call.reply_to: [ChatRefused(call.id, 0, "leaving", "the attempt has ended")]})

    def _send_alive_messages(self) -> None:
        """Report which chats are alive, and abort those whose API process has died."""
        with self._lock:
            chats = dict(self._open)
        if not chats:
            self._missing.clear()
            return
        ids: dict[str, list[str]] = {}
        for chat_id, chat in chats.items():
            ids.setdefault(chat.process_id, []).append(chat_id)
        with self._redis.pipeline(transaction=False) as pipeline:
            for process_id in ids:
                pipeline.exists(process_key(process_id))
            exist = dict(zip(ids, pipeline.execute(), strict=True))
        self._missing = {name: self._missing.get(name, 0) + 1 for name in ids if not exist[name]}
        gone = {name for name, count in self._missing.items() if count >= MAX_MISSED_BEATS}
        self._append_replies({name: [ChatsAlive(ids[name])] for name in ids if name not in gone})
        for process_id in gone:
            log.warning("%s: API process %s has died, aborting its chats", self._attempt_id, process_id)
            for chat_id in ids[process_id]:
                with self._lock:
                    self._open.pop(chat_id, None)
                self._deliver(Abort(chat_id))

    def _append_replies(self, streams: dict[str, list[Reply]]) -> None:
        """Append replies to the stream of each API process, which detects lost replies by their numbers."""
        if not streams:
            return
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for process_id, replies in streams.items():
                    stream, fields = reply_stream_key(process_id), {"replies": REPLIES_ADAPTER.dump_json(replies)}
                    pipeline.xadd(stream, fields, maxlen=MAX_STREAM_ENTRIES, approximate=True)  # type: ignore[arg-type]
                    # While chats are open, a `ChatsAlive` renews the expiry every second.
                    if not all(isinstance(reply, Delta) for reply in replies):
                        pipeline.expire(stream, STREAM_TTL_SECONDS)
                pipeline.execute()
        except (RedisError, OSError) as error:
            log.warning("%s: cannot write to Redis, so replies to chats are lost: %s", self._attempt_id, error)
