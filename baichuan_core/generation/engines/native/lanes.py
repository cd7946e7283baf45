"""Several open batches on one loaded model, which take turns, so that a long run delays chats by at most one step."""

from dataclasses import replace

from baichuan_core.generation.engines.contract import Capacity, EncodedRequest
from baichuan_core.generation.engines.native.engine import NativeEngine
from baichuan_core.generation.engines.outputs import CompletionOutput, StepOutputs

MAX_LANES = 4  # maximum number of open batches per model; completion ids encode the lane


class MultiLaneEngine:
    """Native engines that share a model, see `Engine`. Each has its own slots and its own limit on tokens.

    In each step, every lane that has work advances by one step. A lane uses memory only while it has requests. Before a
    request in lane 0 fails for lack of memory, the other lanes free theirs.

    Example:
        lanes = MultiLaneEngine(NativeEngine(model, ...))    lane 0, for a file of prompts
        chats = lanes.open(NativeEngine(model, ...))         lane 1
        step()    lane 0 computes one token for each of its 32 rows, then lane 1 for each of its 2 rows

    Attributes:
        model: The loaded model.
    """

    def __init__(self, first: NativeEngine) -> None:
        self.model = first.model
        self._engines = [first]
        first.free_others = self._free_other_lanes

    def add_lane(self, engine: NativeEngine) -> int:
        """Add a lane and return its number; any thread may call this.

        Raises:
            ValueError: There are already `MAX_LANES` lanes.
        """
        if len(self._engines) == MAX_LANES:
            raise ValueError(f"a model can have at most {MAX_LANES} open batches")
        self._engines.append(engine)
        return len(self._engines) - 1

    @property
    def is_idle(self) -> bool:
        """See `Engine.is_idle`."""
        return all(engine.is_idle for engine in self._engines)

    def prepare(self, capacity: Capacity) -> None:
        """See `Engine.prepare`; nothing to do, because memory is allocated when rows start."""

    def wake(self) -> None:
        """See `Engine.wake`; nothing to do, because a step never waits."""

    def close(self) -> None:
        """See `Engine.close`."""
        for engine in self._engines:
            engine.close()

    def add_request(self, request: EncodedRequest, *, stream: bool = False) -> int:
        """See `Engine.add_request`; `request.lane` selects the lane."""
        return self._engines[request.lane].add_request(request, stream=stream) * MAX_LANES + request.lane

    def abort(self, request_id: int) -> None:
        """See `Engine.abort`."""
        inner_id, lane = divmod(request_id, MAX_LANES)
        self._engines[lane].abort(inner_id)

    def step(self) -> StepOutputs:
        """See `Engine.step`."""
        outputs: list[CompletionOutput] = []
        for lane, engine in enumerate(self._engines):
            if not engine.is_idle:
                outputs += [replace(one, id=one.id * MAX_LANES + lane) for one in engine.step().outputs]
        return StepOutputs(tuple(outputs))

    def _free_other_lanes(self) -> bool:
        freed = [engine.requeue_rows_and_free_memory() for engine in self._engines[1:]]
        return any(freed)
