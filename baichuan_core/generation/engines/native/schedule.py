"""Which requests run side by side."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from baichuan_core.generation.engines.contract import EncodedRequest
from baichuan_core.generation.engines.native.prefixes import Prefix
from baichuan_core.generation.transcript import Transcript


@dataclass(slots=True, eq=False)
class Row:
    """A completion on its way.

    Attributes:
        request: What is answered.
        transcript: The answer so far.
        tokens: Prompt and answer.
        prefix: What of the prompt has been or will be computed once for several rows.
    """

    request: EncodedRequest
    transcript: Transcript
    tokens: list[int]
    prefix: Prefix | None = field(default=None)

    @property
    def longest(self) -> int:
        """Tokens of prompt and answer at most."""
        return len(self.request.prompt_ids) + self.request.limit


class Schedule:
    """Waiting rows, those with the longest answers and prompts first, so that a lack of memory shows at once.

    Attributes:
        slots: Most rows side by side.
        tokens: Most positions side by side: rows times the longest of them.
        worth_a_pass: Fewer rows wait until others can join with them, since prompts take a pass of their own.
    """

    def __init__(self, rows: Iterable[Row], *, slots: int, tokens: int, worth_a_pass: int = 1) -> None:
        self.slots = slots
        self.tokens = tokens
        self.worth_a_pass = worth_a_pass
        self._waiting = deque(sorted(rows, key=_order))

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._waiting)

    def take(self, active: Sequence[Row]) -> list[Row]:
        """Rows that join now."""
        count = self._room_for(active)
        if active and count < min(self.worth_a_pass, self.slots, len(self._waiting)):
            return []
        return [self._waiting.popleft() for _ in range(count)]

    def most_beside(self, rows: Sequence[Row]) -> int:
        """How many rows may run at most while these do, themselves included."""
        longest = max(row.longest for row in rows)
        fitting = max(len(rows), min(self.slots, self.tokens // longest))
        return min(fitting, len(rows) + len(self._waiting))

    def give_back(self, rows: Iterable[Row]) -> None:
        """Rows that have to wait again."""
        self._waiting = deque(sorted([*rows, *self._waiting], key=_order))

    def _room_for(self, active: Sequence[Row]) -> int:
        """How many of the first in line fit beside the active rows; one always fits if there are none."""
        longest = max((row.longest for row in active), default=0)
        count = 0
        for row in self._waiting:
            longest, rows = max(longest, row.longest), len(active) + count + 1
            if rows > 1 and (rows > self.slots or rows * longest > self.tokens):
                break
            count += 1
        return count


def _order(row: Row) -> tuple[int, int, int, int]:
    request = row.request
    return -request.limit, -len(request.prompt_ids), request.index, request.sample
