"""The scheduling of completions: which of them run at the same time."""

from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from baichuan_core.generation.engines.contract import EncodedRequest
from baichuan_core.generation.engines.native.prefixes import Prefix
from baichuan_core.generation.transcript import Transcript


@dataclass(slots=True, eq=False)
class Row:
    """A completion that is waiting or running.

    Attributes:
        id: The row's id in the engine.
        request: The encoded request.
        transcript: The completion so far.
        tokens: Token ids of the prompt and of the completion so far.
        stream: Whether its text is reported as it is generated.
        arrival: Number of the group of requests with which the row arrived; earlier groups join first.
        prefix: Prefix of the prompt that is computed once for several rows; None once the row has used it.
        may_save: Whether its keys and values may be kept for later rows.
    """

    id: int
    request: EncodedRequest
    transcript: Transcript
    tokens: list[int]
    stream: bool = False
    arrival: int = 0
    prefix: Prefix | None = None
    may_save: bool = False


class RowScheduler:
    """The queue of waiting rows, with limits on how many rows may run at the same time.

    Rows that arrive together are ordered by size: those with the longest completions and prompts come first, so that
    a lack of memory is noticed at the start and not hours later. Rows that arrive later are queued behind all of them,
    so that no row waits forever while others keep arriving. The next rows in the queue join as long as there are at
    most `slots` rows, and the number of rows times the length of the longest is at most `tokens`. No row overtakes one
    that does not fit yet; otherwise, a stream of short rows could keep a long one waiting forever.

    Example:
        With slots=4 and tokens=100, rows of at most 40 tokens wait.
        Two of them start, since 2 * 40 <= 100 and 3 * 40 > 100.
        When one of them ends, the next row in the queue takes its place.

    Attributes:
        slots: Maximum number of rows that run at the same time.
        tokens: Maximum of the number of rows times the length of the longest row.
        min_joining: Minimum number of rows that join together, because computing prompts takes a separate forward
            pass. Fewer rows join only if no row is running or no more are waiting.
    """

    def __init__(self, rows: Iterable[Row] = (), *, slots: int, tokens: int, min_joining: int = 1) -> None:
        self.slots = slots
        self.tokens = tokens
        self.min_joining = min_joining
        self._waiting = deque(sorted(rows, key=_get_sort_key))

    def __bool__(self) -> bool:
        """Return whether any row is waiting."""
        return bool(self._waiting)

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows that arrived together to the end of the queue."""
        self._waiting += sorted(rows, key=_get_sort_key)

    def take_joining_rows(self, active: Sequence[Row]) -> list[Row]:
        """Remove and return the queued rows that may join the active ones now."""
        count = self._count_fitting_rows(active)
        if active and count < min(self.min_joining, self.slots, len(self._waiting)):
            return []
        return [self._waiting.popleft() for _ in range(count)]

    def compute_max_rows(self, rows: Sequence[Row]) -> int:
        """Return the maximum number of rows, including `rows`, that may run at once while `rows` are running."""
        longest = max(row.request.max_tokens for row in rows)
        return max(len(rows), min(self.slots, self.tokens // longest))

    def count_waiting_rows(self) -> int:
        """Return the number of waiting rows."""
        return len(self._waiting)

    def requeue(self, rows: Iterable[Row]) -> None:
        """Put rows back into the queue, at the positions they had before they joined."""
        self._waiting = deque(sorted([*rows, *self._waiting], key=_get_sort_key))

    def remove(self, row: Row) -> None:
        """Remove a row from the queue. It may be absent if a forward pass failed while the row was joining."""
        with suppress(ValueError):
            self._waiting.remove(row)

    def _count_fitting_rows(self, active: Sequence[Row]) -> int:
        """Return how many rows at the head of the queue fit alongside the active ones; at least 1 if none is active."""
        longest = max((row.request.max_tokens for row in active), default=0)
        count = 0
        for row in self._waiting:
            longest, rows = max(longest, row.request.max_tokens), len(active) + count + 1
            if rows > 1 and (rows > self.slots or rows * longest > self.tokens):
                break
            count += 1
        return count


def _get_sort_key(row: Row) -> tuple[int, int, int, int]:
    return row.arrival, -row.request.limit, -len(row.request.prompt_ids), row.id
