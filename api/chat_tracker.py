"""State shared by all chats of this process: the limit per project, the connection to runners, and the SQL rows."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Connection

from api.settings import ApiSettings
from jobs.chats.client import ChatClient
from jobs.database import OUTAGE_ERRORS
from jobs.database.batching import CallBatcher
from jobs.errors import OutcomeUnknownError, TooManyRequestsError
from jobs.service import chats
from jobs.service.chats import EndedChat, NewChat

RENEWAL_INTERVAL_SECONDS = 30.0  # a quarter of the time after which the leader considers a chat abandoned
CHAT_LIMIT_RETRY_SECONDS = 2  # Retry-After when a project has reached its limit of open chats

log = logging.getLogger(__name__)


class ChatTracker:
    """Counts chats, sends them to runners and records their usage; writes rows in the background.

    Args:
        settings: Settings of the deployment.
        writer: The batcher that writes rows.

    Attributes:
        loads: Number of this process's open chats by attempt.
    """

    def __init__(self, settings: ApiSettings, writer: CallBatcher) -> None:
        self._settings = settings
        self._writer = writer
        self._client: ChatClient | None = None
        self._projects = Counter[str]()
        self._open: set[str] = set()
        self._writes: set[asyncio.Task[None]] = set()
        self.loads = Counter[str]()

    @property
    def client(self) -> ChatClient:
        """The connection to runners."""
        if self._client is None:
            raise RuntimeError("the chat tracker is not running")
        return self._client

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run in the background until the block ends, then finish writing rows."""
        self._client = ChatClient(self._settings.effective_redis_url)
        renewal = asyncio.create_task(self._renew_chats())
        try:
            async with self._client.running():
                yield
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, *self._writes, return_exceptions=True)

    def add_open_chat(self, project_id: str) -> None:
        """Count one more open chat for a project; every call must be followed by `remove_open_chat`.

        Raises:
            TooManyRequestsError: The project has reached its limit of open chats.
        """
        limit = self._settings.chats_per_project
        if self._projects[project_id] >= limit:
            message = f"this project has {limit} open chats, the limit per API process"
            raise TooManyRequestsError(f"{message}; wait until one ends", seconds=CHAT_LIMIT_RETRY_SECONDS)
        self._projects[project_id] += 1

    def remove_open_chat(self, project_id: str) -> None:
        """Stop counting a chat as open."""
        self._projects[project_id] -= 1
        if not self._projects[project_id]:
            del self._projects[project_id]

    def record_start(self, chat: NewChat) -> None:
        """Record a chat that an attempt has begun to answer."""
        self._open.add(chat.id)
        self.loads[chat.attempt_id] += 1
        self._write(chats.begin, chat)

    def record_end(self, ended: EndedChat) -> None:
        """Record how a chat ended."""
        self._open.discard(ended.chat.id)
        self.loads[ended.chat.attempt_id] -= 1
        if not self.loads[ended.chat.attempt_id]:
            del self.loads[ended.chat.attempt_id]
        self._write(chats.end, ended)

    def _write(self, operation: Callable[[Connection, Any], Any], item: object) -> None:
        task = asyncio.create_task(self._try_to_write(operation, item))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _try_to_write(self, operation: Callable[[Connection, Any], Any], item: object) -> None:
        try:
            await self._writer.call(operation, item)
        except (*OUTAGE_ERRORS, OutcomeUnknownError) as error:
            log.warning("a chat was not recorded because the database failed: %s", error)

    async def _renew_chats(self) -> None:
        while True:
            await asyncio.sleep(RENEWAL_INTERVAL_SECONDS)
            if ids := list(self._open):
                try:
                    await self._writer.run(lambda connection, ids=ids: chats.renew(connection, ids))  # type: ignore[misc]
                except (*OUTAGE_ERRORS, OutcomeUnknownError) as error:
                    log.warning("could not renew chats because of a database error, will retry: %s", error)
