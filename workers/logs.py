"""Splits a runner's output into lines, and limits how much of it is kept."""

MAX_LINE_BYTES = 8192


class LineSplitter:
    """Splits the bytes of one stream into lines of text.

    If a progress bar overwrites a line with carriage returns, only the final state of the line is kept.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that `data` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        return [_decode_line(line) for line in lines]

    def close(self) -> list[str]:
        """Return the text after the last line break."""
        rest, self._rest = self._rest, b""
        return [_decode_line(rest)] if rest else []


class LogBudget:
    """The amount of an attempt's output that may still be kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._left = limit

    def limit_lines(self, lines: list[str]) -> list[str]:
        """Return the lines within the budget; a note replaces the first line beyond it, and later lines are dropped."""
        if self._left < 0:
            return []
        for position, line in enumerate(lines):
            self._left -= len(line.encode()) + 1
            if self._left < 0:
                return [*lines[:position], f"[output beyond {self._limit} bytes is omitted]"]
        return lines


def _decode_line(line: bytes) -> str:
    last = line.rstrip(b"\r").rpartition(b"\r")[2]
    # PostgreSQL text cannot contain NUL.
    return last.decode("utf-8", errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
