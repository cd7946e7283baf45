"""The engine that runs completions in llama.cpp's server."""

import threading
from itertools import count
from queue import SimpleQueue

import torch

from baichuan_core.generation.engines.capacity import compute_capacity, grow_capacity, is_capacity_sufficient
from baichuan_core.generation.engines.contract import Capacity, EncodedRequest, EngineSetup
from baichuan_core.generation.engines.llama_cpp.calls import CompletionClient
from baichuan_core.generation.engines.llama_cpp.characters import ByteTokenTable
from baichuan_core.generation.engines.llama_cpp.completion import RunningCompletion, Vocabulary
from baichuan_core.generation.engines.llama_cpp.server import LlamaServer
from baichuan_core.generation.engines.outputs import CompletionOutput, StepOutputs
from baichuan_core.generation.engines.waiting import WaitingQueue
from baichuan_core.generation.transcript import Transcript
from baichuan_core.tokenizer import BaichuanTokenizer

BASE_READ_INTERVAL_SECONDS = 0.04
READ_INTERVAL_SECONDS_PER_STREAM = 0.005
MAX_READ_INTERVAL_SECONDS = 0.1


class LlamaCppEngine:
    """A GGUF model with an open batch, see `Engine`. The server has a fixed number of slots of a fixed length.

    A request that is too long for a slot waits, as do those behind it, until the running completions have ended; then
    the server is restarted with longer slots.
    """

    def __init__(self, setup: EngineSetup, tokenizer: BaichuanTokenizer) -> None:
        self._model = next(iter(sorted(setup.checkpoint.glob("*.gguf"))))
        self._setup = setup
        self._tokenizer = tokenizer
        self._vocabulary = Vocabulary(ByteTokenTable(tokenizer), setup.config.vocab_size, min(setup.end_token_ids))
        self._server: LlamaServer | None = None
        self._waiting = WaitingQueue()
        self._streamed: set[int] = set()
        self._running: dict[int, RunningCompletion] = {}
        self._events: SimpleQueue[CompletionOutput | BaseException | None] = SimpleQueue()  # None only wakes `step`
        self._ids = count()

    @property
    def is_idle(self) -> bool:
        """See `Engine.is_idle`."""
        return not self._running and not self._waiting

    def prepare(self, capacity: Capacity) -> None:
        """See `Engine.prepare`."""
        if not self._running:
            self._ensure_server(capacity)

    def add_request(self, request: EncodedRequest, *, stream: bool = False) -> int:
        """See `Engine.add_request`."""
        request_id = next(self._ids)
        self._waiting.add(request_id, request)
        if stream:
            self._streamed.add(request_id)
        return request_id

    def abort(self, request_id: int) -> None:
        """See `Engine.abort`."""
        self._waiting.remove(request_id)
        self._streamed.discard(request_id)
        running = self._running.pop(request_id, None)
        if running is None:
            return
        running.calls.abort()
        if running.calls.computes_unread and not self._running:
            self._stop_server()  # otherwise the server would compute the rest of the completion

    def step(self) -> StepOutputs:
        """See `Engine.step`; wait for an output of any completion."""
        self._start_waiting_requests()
        events = [self._events.get()] if self._running else []
        while not self._events.empty():
            events.append(self._events.get())
        outputs: list[CompletionOutput] = []
        for event in events:
            if isinstance(event, BaseException):
                raise event
            if event is None or event.id not in self._running:
                continue
            outputs.append(event)
            if event.is_last:
                del self._running[event.id]
                self._streamed.discard(event.id)
        return StepOutputs(tuple(outputs))

    def wake(self) -> None:
        """See `Engine.wake`."""
        self._events.put(None)

    def close(self) -> None:
        """See `Engine.close`."""
        for request_id in list(self._running):
            self.abort(request_id)
        self._waiting = WaitingQueue()
        self._stop_server()

    def _start_waiting_requests(self) -> None:
        while self._waiting:
            server, request = self._server, self._waiting.peek()
            if server is None or not server.is_alive or request.max_tokens >= server.capacity.slot_tokens:
                if self._running:
                    return
                self._ensure_server(compute_capacity(self._waiting.list_requests(), self._setup.settings))
            elif len(self._running) >= server.capacity.slots:
                return
            else:
                self._start_completion(server, *self._waiting.pop())

    def _start_completion(self, server: LlamaServer, request_id: int, request: EncodedRequest) -> None:
        transcript = Transcript(self._tokenizer, request, self._setup.end_token_ids)
        completion = RunningCompletion(
            request_id,
            transcript,
            CompletionClient(server, self._get_read_interval),
            self._vocabulary,
            self._events.put,
            stream=request_id in self._streamed,
        )
        self._running[request_id] = completion
        threading.Thread(target=completion.run, name="llama.cpp", daemon=True).start()

    def _get_read_interval(self) -> float:
        """Return the seconds between two reads of a stream: the more streams, the slower each of them is."""
        interval = BASE_READ_INTERVAL_SECONDS + READ_INTERVAL_SECONDS_PER_STREAM * len(self._running)
        return min(interval, MAX_READ_INTERVAL_SECONDS)

    def _ensure_server(self, needed: Capacity) -> None:
        """Start a server with the needed capacity, unless such a server is already running."""
        if self._server is not None and self._server.is_alive:
            if is_capacity_sufficient(self._server.capacity, needed):
                return
            needed = grow_capacity(self._server.capacity, needed, self._setup.settings)
        self._stop_server()  # frees the old server's memory before the new one starts
        self._server = LlamaServer(self._model, needed, threads=torch.get_num_threads())

    def _stop_server(self) -> None:
        if self._server is not None:
            self._server.end()
            self._server = None
