"""An engine that many threads can use at the same time: one thread steps it and distributes the outputs."""

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue

from baichuan_core.errors import UnsupportedError
from baichuan_core.generation.engines.contract import Capacity, EncodedRequest, Engine
from baichuan_core.generation.engines.outputs import CompletionOutput, StepOutputs
from baichuan_core.generation.mailbox import Mailbox

CallQueue = SimpleQueue[Callable[[], None] | None]  # None stops the thread


@dataclass(slots=True, eq=False)
class CompletionGroup:
    """Completions that were submitted together.

    Attributes:
        added: Resolves once the completions are in the batch, or fails if they could not be added.
        mailbox: Outputs that have not been read yet.
        open_ids: The engine's ids of the unfinished completions; only the batch's thread changes them.
    """

    added: Future[None] = field(default_factory=Future)
    mailbox: Mailbox[StepOutputs] = field(default_factory=Mailbox)
    open_ids: set[int] = field(default_factory=set)


class OpenBatch:
    """The open batch of an engine, shared by any number of threads and event loops.

    `submit` adds completions to the running batch. A single thread steps the engine as long as there is work; between
    two steps, it runs the calls that other threads have queued. While idle, it holds no reference to the batch, so the
    engine is freed together with its last user. The thread stops with the batch, or when the interpreter exits.

    Example:
        thread A: feed = batch.submit([a])     thread B: feed = batch.submit([b])
        thread A: for step in feed             thread B: for step in feed
        a and b are computed in the same steps; each feed contains only the outputs of its own completions.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        # Keyed by the engine's completion id; used only by the batch's thread.
        self._groups: dict[int, CompletionGroup] = {}
        self._calls: CallQueue = SimpleQueue()
        self._thread = threading.Thread(
            target=_run_engine_loop, args=(weakref.ref(self), self._calls), name="generation", daemon=True
        )
        self._stop = weakref.finalize(self, _stop_thread, self._thread, self._calls, engine)
        self._sending = threading.Lock()

    def submit(
        self, requests: Sequence[EncodedRequest], *, stream: bool = False, capacity: Capacity | None = None
    ) -> "OutputFeed":
        """Add completions to the batch without waiting. Errors are raised when the feed is read.

        Args:
            requests: The completions; they are scheduled together, so that prefixes shared by their prompts are
                computed once.
            stream: Whether to report text as it is generated.
            capacity: Capacity to prepare before the first of them runs.

        Raises:
            UnsupportedError: The batch is closed.
        """
        group = CompletionGroup()
        self._queue_call(lambda: self._add_completions(group, requests, stream=stream, capacity=capacity))
        return OutputFeed(self, group)

    def cancel(self, group: CompletionGroup) -> None:
        """Remove unfinished completions; their slots become free in the next step.

        This takes no lock, because a finalizer may call it at any time and in any thread.
        """
        self._calls.put(lambda: self._abort_completions(group))
        self.engine.wake()

    def close(self) -> None:
        """Fail the unfinished completions and free the engine's memory. Later submissions raise an error."""
        with self._sending:
            if self._stop():  # the batch's thread has stopped, so this one may use the engine
                self.fail_completions(
                    UnsupportedError("the model was closed before the completion finished; load it again")
                )
                self.engine.close()

    def step(self) -> None:
        """Step the engine and distribute its outputs; only the batch's thread calls this."""
        try:
            step = self.engine.step()
        except BaseException as error:  # noqa: BLE001 - it is raised in the threads that wait for the completions
            self.fail_completions(error)
            return
        news: dict[int, tuple[CompletionGroup, list[CompletionOutput]]] = {}
        for output in step.outputs:
            if group := self._groups.get(output.id):
                news.setdefault(id(group), (group, []))[1].append(output)
                if output.is_last:
                    del self._groups[output.id]
                    group.open_ids.discard(output.id)
        for group, outputs in news.values():
            group.mailbox.put(StepOutputs(tuple(outputs)))
            if failure := next((one.error for one in outputs if one.error), None):
                self._abort_completions(group)
                group.mailbox.close(failure)
            elif not group.open_ids:
                group.mailbox.close()

    def _add_completions(
        self, group: CompletionGroup, requests: Sequence[EncodedRequest], *, stream: bool, capacity: Capacity | None
    ) -> None:
        try:
            if capacity is not None:
                self.engine.prepare(capacity)
            for request in requests:
                request_id = self.engine.add_request(request, stream=stream)
                group.open_ids.add(request_id)
                self._groups[request_id] = group
        except BaseException as error:  # noqa: BLE001 - as above
            self._abort_completions(group)
            group.mailbox.close(error)
            group.added.set_exception(error)
            return
        group.added.set_result(None)
        if not requests:
            group.mailbox.close()

    def _abort_completions(self, group: CompletionGroup) -> None:
        while group.open_ids:
            request_id = group.open_ids.pop()
            self._groups.pop(request_id, None)
            self.engine.abort(request_id)

    def fail_completions(self, error: BaseException) -> None:
        """Remove all completions, and raise `error` in their readers.

        Only the batch's thread calls this, or `close` after that thread has stopped.
        """
        for group in {id(one): one for one in self._groups.values()}.values():
            with suppress(Exception):  # the engine may be broken
                self._abort_completions(group)
            group.mailbox.close(error)
        self._groups.clear()

    def _queue_call(self, call: Callable[[], None]) -> None:
        """Queue a call that the batch's thread makes between two steps."""
        with self._sending:
            if not self._stop.alive:
                raise UnsupportedError("the model is closed; load it again")
            if self._thread.ident is None:
                self._thread.start()
            self._calls.put(call)
        self.engine.wake()


class OutputFeed:
    """The outputs of completions that were submitted together, step by step.

    The feed ends after the last completion. If one of them fails, its error is raised and the others are removed. A
    feed that is no longer referenced is cancelled.
    """

    def __init__(self, batch: OpenBatch, group: CompletionGroup) -> None:
        self._batch = batch
        self._group = group
        weakref.finalize(self, batch.cancel, group).atexit = False

    def wait_until_added(self) -> None:
        """Wait until the completions are in the batch and the engine has room for the first of them.

        Raises:
            CheckpointError: The model cannot be loaded.
            InsufficientMemoryError: There is not enough memory.
        """
        self._group.added.result()

    def cancel(self) -> None:
        """Remove the completions from the batch; readers see the end of the feed. Any thread may call this."""
        self._group.mailbox.close(discard=True)
        self._batch.cancel(self._group)

    def get(self) -> StepOutputs:
        """Wait for the next step.

        Raises:
            EOFError: All completions have ended, or the feed was cancelled.
            BaichuanError: A completion failed.
        """
        return self._group.mailbox.get()

    async def aget(self) -> StepOutputs:
        """Wait for the next step in an event loop; see `get`."""
        return await self._group.mailbox.aget()

    def __iter__(self) -> Iterator[StepOutputs]:
        """Iterate over the steps; leaving the loop early cancels the completions."""
        try:
            while True:
                yield self.get()
        except EOFError:
            return
        finally:
            self.cancel()


def _run_engine_loop(reference: "weakref.ref[OpenBatch]", calls: CallQueue) -> None:
    """Run queued calls and step the engine while it has work; hold no reference to the batch while waiting."""
    call = calls.get()
    while call is not None:
        batch = reference()
        while batch is not None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - as in `OpenBatch.step`
                batch.fail_completions(error)
            while calls.empty() and not batch.engine.is_idle:
                batch.step()
            if calls.empty():
                break
            if (call := calls.get()) is None:
                return
        del call, batch
        call = calls.get()


def _stop_thread(thread: threading.Thread, calls: CallQueue, engine: Engine) -> bool:
    """Stop the thread after its current step."""
    calls.put(None)
    engine.wake()
    if thread.ident is not None and thread is not threading.current_thread():
        thread.join()
    return True  # a finalizer returns None if it has already run, so `close` acts only once
