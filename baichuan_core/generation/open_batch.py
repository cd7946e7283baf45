"""An engine that many threads can use at the same time: one thread steps it and hands out what is new."""

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue

from baichuan_core.errors import UnsupportedError
from baichuan_core.generation.engines.contract import Capacity, EncodedRequest, Engine
from baichuan_core.generation.engines.outputs import Output, Step
from baichuan_core.generation.mailbox import Mailbox

Calls = SimpleQueue[Callable[[], None] | None]  # None ends the thread


@dataclass(slots=True, eq=False)
class Ticket:
    """The completions that were submitted together.

    Attributes:
        added: Done when they are in the batch, or failed.
        mailbox: Their outputs that have not been read.
        open_ids: The engine's ids of those that have not ended; changed by the batch's thread only.
    """

    added: Future[None] = field(default_factory=Future)
    mailbox: Mailbox[Step] = field(default_factory=Mailbox)
    open_ids: set[int] = field(default_factory=set)


class OpenBatch:
    """The open batch of an engine, for any number of threads and event loops.

    `submit` adds completions to those that run. A single thread steps the engine as long as there is work; between two
    steps it carries out what the other threads ask for. While there is no work it does not keep the engine alive, which
    is therefore freed with its last user. The thread also ends when the interpreter exits.

    Example:
        thread A: feed = batch.submit([a])     thread B: feed = batch.submit([b])
        thread A: for step in feed             thread B: for step in feed
        a and b are computed in the same steps; each feed has the outputs of its own completions only.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._tickets: dict[int, Ticket] = {}  # by the engine's ids of completions; used by the batch's thread only
        self._calls: Calls = SimpleQueue()
        self._thread = threading.Thread(
            target=_serve, args=(weakref.ref(self), self._calls), name="generation", daemon=True
        )
        self._stop = weakref.finalize(self, _stop, self._thread, self._calls, engine)
        self._sending = threading.Lock()

    def submit(
        self, requests: Sequence[EncodedRequest], *, stream: bool = False, capacity: Capacity | None = None
    ) -> "Feed":
        """Add completions to the batch. This does not wait; what fails is raised where the feed is read.

        Args:
            requests: The completions; they are planned together, so that they share prefixes of their prompts.
            stream: Whether to report text as it comes.
            capacity: Room to make before the first of them runs.

        Raises:
            UnsupportedError: The batch is closed.
        """
        ticket = Ticket()
        self._send(lambda: self._add(ticket, requests, stream=stream, capacity=capacity))
        return Feed(self, ticket)

    def cancel(self, ticket: Ticket) -> None:
        """Remove completions that have not ended; their slots are free in the next step.

        This takes no lock, because the garbage collector may call it at any time, in any thread.
        """
        self._calls.put(lambda: self._abort(ticket))
        self.engine.wake()

    def close(self) -> None:
        """Fail the completions that have not ended, and free the engine's memory. Nothing can be submitted after it."""
        with self._sending:
            if self._stop():  # the thread has ended, so this one may use the engine
                self.fail(UnsupportedError("the model was closed before the completion ended; load it again"))
                self.engine.close()

    def step(self) -> None:
        """Step the engine and hand out the outputs; called by the batch's own thread."""
        try:
            step = self.engine.step()
        except BaseException as error:  # noqa: BLE001 - it is raised where the completions are waited for
            self.fail(error)
            return
        news: dict[int, tuple[Ticket, list[Output]]] = {}
        for output in step.outputs:
            if ticket := self._tickets.get(output.id):
                news.setdefault(id(ticket), (ticket, []))[1].append(output)
                if output.is_last:
                    del self._tickets[output.id]
                    ticket.open_ids.discard(output.id)
        for ticket, outputs in news.values():
            ticket.mailbox.put(Step(tuple(outputs)))
            if failure := next((one.error for one in outputs if one.error), None):
                self._abort(ticket)
                ticket.mailbox.close(failure)
            elif not ticket.open_ids:
                ticket.mailbox.close()

    def _add(
        self, ticket: Ticket, requests: Sequence[EncodedRequest], *, stream: bool, capacity: Capacity | None
    ) -> None:
        try:
            if capacity is not None:
                self.engine.prepare(capacity)
            for request in requests:
                request_id = self.engine.add_request(request, stream=stream)
                ticket.open_ids.add(request_id)
                self._tickets[request_id] = ticket
        except BaseException as error:  # noqa: BLE001 - as above
            self._abort(ticket)
            ticket.mailbox.close(error)
            ticket.added.set_exception(error)
            return
        ticket.added.set_result(None)
        if not requests:
            ticket.mailbox.close()

    def _abort(self, ticket: Ticket) -> None:
        while ticket.open_ids:
            request_id = ticket.open_ids.pop()
            self._tickets.pop(request_id, None)
            self.engine.abort(request_id)

    def fail(self, error: BaseException) -> None:
        """Remove all completions, and raise an error where they are waited for; called by the batch's own thread."""
        for ticket in {id(one): one for one in self._tickets.values()}.values():
            with suppress(Exception):  # the engine may be broken
                self._abort(ticket)
            ticket.mailbox.close(error)
        self._tickets.clear()

    def _send(self, call: Callable[[], None]) -> None:
        """Let the batch's thread call a function between two steps."""
        with self._sending:
            if not self._stop.alive:
                raise UnsupportedError("the model is closed; load it again")
            if self._thread.ident is None:
                self._thread.start()
            self._calls.put(call)
        self.engine.wake()


class Feed:
    """Outputs of the completions that were submitted together, step by step.

    After the last completion comes the end. The first one that fails is raised as an error, and the others are removed.
    A feed that is no longer referenced is cancelled.
    """

    def __init__(self, batch: OpenBatch, ticket: Ticket) -> None:
        self._batch = batch
        self._ticket = ticket
        weakref.finalize(self, batch.cancel, ticket).atexit = False

    def wait_until_added(self) -> None:
        """Wait until the completions are in the batch, with room for the first of them.

        Raises:
            CheckpointError: The model cannot be loaded.
            InsufficientMemoryError: There is not enough memory.
        """
        self._ticket.added.result()

    def cancel(self) -> None:
        """Remove the completions from the batch; whoever reads gets the end. Any thread may call this."""
        self._ticket.mailbox.close(discard=True)
        self._batch.cancel(self._ticket)

    def get(self) -> Step:
        """Wait for the next step.

        Raises:
            EOFError: All completions have ended, or the feed was cancelled.
            BaichuanError: A completion failed.
        """
        return self._ticket.mailbox.get()

    async def aget(self) -> Step:
        """Wait for the next step in an event loop; see `get`."""
        return await self._ticket.mailbox.aget()

    def __iter__(self) -> Iterator[Step]:
        """Iterate over the steps; leaving the loop early cancels the completions."""
        try:
            while True:
                yield self.get()
        except EOFError:
            return
        finally:
            self.cancel()


def _serve(reference: "weakref.ref[OpenBatch]", calls: Calls) -> None:
    """Carry out calls and step the engine while it has work; waiting for work needs no reference to the batch."""
    call = calls.get()
    while call is not None:
        batch = reference()
        while batch is not None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - as in `OpenBatch.step`
                batch.fail(error)
            while calls.empty() and not batch.engine.is_idle:
                batch.step()
            if calls.empty():
                break
            if (call := calls.get()) is None:
                return
        del call, batch
        call = calls.get()


def _stop(thread: threading.Thread, calls: Calls, engine: Engine) -> bool:
    """End the thread after its current step."""
    calls.put(None)
    engine.wake()
    if thread.ident is not None and thread is not threading.current_thread():
        thread.join()
    return True  # a finalizer that has run before returns None
