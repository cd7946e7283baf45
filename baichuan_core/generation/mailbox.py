"""A queue that passes items from a thread to one consumer, which is another thread or an asyncio task."""

import asyncio
import threading
from collections import deque
from contextlib import suppress
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """A queue for one consumer. After `close`, the consumer gets the remaining items, and then an error.

    Example:
        mailbox.put(1)              from the engine's thread
        mailbox.close()
        mailbox.get()               1, in any thread; or `await mailbox.aget()` in any event loop
        mailbox.get()               raises `EOFError`
    """

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None
        self._closed = False
        self._error: BaseException | None = None

    def put(self, item: Item) -> None:
        """Add an item, unless the mailbox is closed."""
        with self._changed:
            if not self._closed:
                self._items.append(item)
                self._notify_consumer()

    def close(self, error: BaseException | None = None, *, discard: bool = False) -> None:
        """Stop accepting items. If this is called again, the error passed to the first call is kept.

        Args:
            error: Error to raise in the consumer at the end, instead of `EOFError`.
            discard: Whether to drop the remaining items.
        """
        with self._changed:
            if discard:
                self._items.clear()
            if not self._closed:
                self._closed, self._error = True, error
            self._notify_consumer()

    def get(self) -> Item:
        """Wait for the next item.

        Raises:
            EOFError: The mailbox is closed and empty. If it was closed with an error, that error is raised instead.
        """
        with self._changed:
            self._changed.wait_for(self._is_ready)
            return self._take_item()

    async def aget(self) -> Item:
        """Wait for the next item in an event loop; see `get`."""
        while True:
            loop = asyncio.get_running_loop()
            with self._changed:
                if self._is_ready():
                    return self._take_item()
                future: asyncio.Future[None] = loop.create_future()
                self._waiter = (loop, future)
            await future

    def _is_ready(self) -> bool:
        return bool(self._items) or self._closed

    def _take_item(self) -> Item:
        if self._items:
            return self._items.popleft()
        raise self._error or EOFError

    def _notify_consumer(self) -> None:
        self._changed.notify_all()
        if self._waiter:
            loop, future = self._waiter
            self._waiter = None
            with suppress(RuntimeError):  # the loop is closed, so nothing is waiting in it
                loop.call_soon_threadsafe(_resolve_future, future)


def _resolve_future(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
