"""The queue of requests that are waiting for an engine with a fixed number of slots, such as llama.cpp or vLLM."""

from collections import deque

from baichuan_core.generation.engines.contract import EncodedRequest


class WaitingQueue:
    """Queue of requests in order of arrival; among requests that arrive together, the longest come first.

    Otherwise, a long request might have to run alone at the end.
    """

    def __init__(self) -> None:
        self._arrived: list[tuple[int, EncodedRequest]] = []
        self._queue: deque[tuple[int, EncodedRequest]] = deque()

    def __len__(self) -> int:
        return len(self._arrived) + len(self._queue)

    def add(self, request_id: int, request: EncodedRequest) -> None:
        """Add a request. All requests added between two calls to `peek` count as arriving together."""
        self._arrived.append((request_id, request))

    def remove(self, request_id: int) -> None:
        """Remove a request if it is waiting."""
        self._arrived = [one for one in self._arrived if one[0] != request_id]
        self._queue = deque(one for one in self._queue if one[0] != request_id)

    def peek(self) -> EncodedRequest:
        """Return the next request; requests added later are queued behind all those that are waiting now."""
        self._queue += sorted(self._arrived, key=lambda one: (-one[1].max_tokens, one[0]))
        self._arrived = []
        return self._queue[0][1]

    def pop(self) -> tuple[int, EncodedRequest]:
        """Remove and return the next request, the one that `peek` returned."""
        return self._queue.popleft()

    def list_requests(self) -> list[EncodedRequest]:
        """Return all waiting requests."""
        return [request for _, request in (*self._queue, *self._arrived)]
