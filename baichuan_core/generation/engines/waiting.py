"""The queue of requests in front of an engine that has a fixed number of slots, as llama.cpp and vLLM do."""

from collections import deque

from baichuan_core.generation.engines.contract import EncodedRequest


class WaitingQueue:
    """Requests by id. Those that arrive together come longest first, and behind all that arrived earlier.

    The longest ones start first, so that none of them runs alone at the end; later arrivals wait behind them, so that
    every request gets its turn.
    """

    def __init__(self) -> None:
        self._arrived: list[tuple[int, EncodedRequest]] = []
        self._queue: deque[tuple[int, EncodedRequest]] = deque()

    def __len__(self) -> int:
        return len(self._arrived) + len(self._queue)

    def add(self, request_id: int, request: EncodedRequest) -> None:
        """Add a request to those that arrive together."""
        self._arrived.append((request_id, request))

    def remove(self, request_id: int) -> None:
        """Take a request out, if it is waiting."""
        self._arrived = [one for one in self._arrived if one[0] != request_id]
        self._queue = deque(one for one in self._queue if one[0] != request_id)

    def peek(self) -> EncodedRequest:
        """Return the next request; requests that are added from now on arrive later."""
        self._queue += sorted(self._arrived, key=lambda one: (-one[1].tokens, one[0]))
        self._arrived = []
        return self._queue[0][1]

    def pop(self) -> tuple[int, EncodedRequest]:
        """Take out the next request, the one that `peek` returned."""
        return self._queue.popleft()

    def requests(self) -> list[EncodedRequest]:
        """Return all waiting requests."""
        return [request for _, request in (*self._queue, *self._arrived)]
