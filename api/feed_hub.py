"""Tells the event streams of this process which projects have changed.

A Redis subscription reports which feeds have grown. Because its messages can be lost, a short SQL query also checks all
watched projects every second, or more often while Redis is down.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

from redis.asyncio import Redis
from redis.exceptions import RedisError

from api.settings import ApiSettings
from jobs.database import OUTAGE_ERRORS
from jobs.database.batching import CallBatcher
from jobs.service import feed
from jobs.transport import FEED_CHANNEL

POLL_INTERVAL_SECONDS = 1.0  # seconds between two SQL queries while Redis is announcing changes
RECONNECT_SECONDS = 1.0

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class WatchedProject:
    """A project with open streams, and the newest known position of its feed."""

    watchers: int = 0
    position: int = 0
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self, position: int, seconds: float) -> None:
        """Wait up to `seconds` for the feed to move past `position`."""
        if self.position == position:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.grown.wait(), seconds)


class FeedHub:
    """Wakes event streams when their projects change; without open streams, it uses neither Redis nor SQL.

    Args:
        settings: Settings of the deployment.
        reader: The batcher that reads positions.
        closing: Set when the server stops; all streams are then woken so that they end.
    """

    def __init__(self, settings: ApiSettings, reader: CallBatcher, closing: threading.Event) -> None:
        self._settings = settings
        self._closing = closing
        self._reader = reader
        self._projects: dict[str, WatchedProject] = {}
        self._watched = asyncio.Event()
        self._news = asyncio.Event()
        self._subscribed = False

    @contextmanager
    def watch(self, project_id: str) -> Iterator[WatchedProject]:
        """Watch a project while the block runs."""
        project = self._projects.setdefault(project_id, WatchedProject())
        project.watchers += 1
        self._watched.set()
        try:
            yield project
        finally:
            project.watchers -= 1
            if not project.watchers:
                del self._projects[project_id]
            if not self._projects:
                self._watched.clear()
                self._news.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Poll and listen in the background while the block runs."""
        tasks = [asyncio.create_task(self._subscribe()), asyncio.create_task(self._poll_feeds())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _poll_feeds(self) -> None:
        while True:
            await self._watched.wait()
            seconds = POLL_INTERVAL_SECONDS if self._subscribed else self._settings.stream_poll_seconds
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), seconds)
            self._news.clear()
            if self._closing.is_set():
                for project in self._projects.values():
                    self._wake(project)
            try:
                last = await self._reader.call(feed.get_last_positions, list(self._projects))
            except OUTAGE_ERRORS as error:
                log.debug("cannot read the feeds, trying again: %s", error)
                continue
            for project_id, position in last.items():
                watched = self._projects.get(project_id)
                if watched is not None and watched.position != position:
                    watched.position = position
                    self._wake(watched)

    @staticmethod
    def _wake(project: WatchedProject) -> None:
        project.grown.set()
        project.grown = asyncio.Event()

    async def _subscribe(self) -> None:
        while True:
            await self._watched.wait()
            try:
                await self._listen()
            except (RedisError, OSError) as error:
                log.debug("event streams fall back to polling because Redis is unreachable: %s", error)
            finally:
                self._subscribed = False
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self) -> None:
        """Listen for announcements while any project is watched."""
        client = Redis.from_url(self._settings.effective_redis_url, socket_connect_timeout=RECONNECT_SECONDS)
        async with client, client.pubsub(ignore_subscribe_messages=True) as subscription:
            await subscription.subscribe(FEED_CHANNEL)
            self._subscribed = True
            self._news.set()  # check for changes that were announced before the subscription
            while self._projects:
                message = await subscription.get_message(timeout=self._settings.stream_idle_seconds)
                if message and self._projects.keys() & message["data"].decode().split(","):
                    self._news.set()
