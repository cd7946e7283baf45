"""Group commit: one thread takes all waiting calls into one transaction and answers them after its commit.

Against a transaction a request this was measured at 4 to 5 times the rate and a fifth of the 99th percentile or less
(docs/decisions/0003).
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

from sqlalchemy import Connection

from jobs.errors import DomainError

BATCH_LIMIT = 256

T = TypeVar("T")
R = TypeVar("R")
Operation = Callable[[Connection, Sequence[T]], Sequence[R | DomainError]]


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    operation: Operation[Any, Any]
    item: Any
    future: asyncio.Future[Any]


class Lane:
    """A thread that runs database operations for coroutines, as many as wait in one transaction.

    An operation takes a list and answers a list, so that calls of the same operation become one SQL statement.
    """

    def __init__(
        self,
        name: str,
        begin: Callable[[], AbstractContextManager[Connection]],
        after_commit: Callable[[], None] | None = None,
    ) -> None:
        self._begin = begin
        self._after_commit = after_commit
        self._waiting: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def call(self, operation: Operation[T, R], item: T) -> R:
        """The operation's answer to `item`, once its transaction is committed.

        Raises:
            DomainError: that is the answer.
        """
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.put(_Call(operation, item, future))
        return await future

    async def run(self, function: Callable[[Connection], R]) -> R:
        """The function's result, once its transaction is committed; a DomainError undoes only its work."""
        return await self.call(_run_each, function)

    def close(self) -> None:
        """Finish what waits, and end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            calls = [call for call in batch if call is not None]
            try:
                answers = self._transaction(calls)
            except Exception:  # noqa: BLE001 - whatever failed the batch is found again below, and answered
                answers = [self._alone(call) for call in calls]
            for loop, group in groupby(zip(calls, answers, strict=True), key=lambda pair: pair[0].future.get_loop()):
                loop.call_soon_threadsafe(_resolve, list(group))
            if calls and self._after_commit:
                self._after_commit()
            if None in batch:
                return

    def _next_batch(self) -> list[_Call | None]:
        batch = [self._waiting.get()]
        while len(batch) < BATCH_LIMIT and batch[-1] is not None and not self._waiting.empty():
            batch.append(self._waiting.get())
        return batch

    def _transaction(self, calls: Sequence[_Call]) -> list[Any]:
        with self._begin() as connection:
            return list(_answers(connection, calls))

    def _alone(self, call: _Call) -> Any:
        try:
            return self._transaction([call])[0]
        except Exception as error:  # noqa: BLE001 - it is raised again in the coroutine that asked
            return error


def _answers(connection: Connection, calls: Sequence[_Call]) -> Iterator[Any]:
    for operation, group in groupby(calls, key=lambda call: call.operation):
        yield from operation(connection, [call.item for call in group])


def _run_each(connection: Connection, functions: Sequence[Callable[[Connection], R]]) -> list[R | DomainError]:
    answers: list[R | DomainError] = []
    for function in functions:
        try:
            with connection.begin_nested():
                answers.append(function(connection))
        except DomainError as error:
            answers.append(error)
    return answers


def _resolve(pairs: Sequence[tuple[_Call, Any]]) -> None:
    for call, answer in pairs:
        if call.future.done():
            continue  # the client has gone
        if isinstance(answer, Exception):
            call.future.set_exception(answer)
        else:
            call.future.set_result(answer)
