"""The outcome of one check."""

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check; a `note` is not a failure, and `remedy` says what to do."""

    name: str
    status: Literal["ok", "note", "failed"]
    detail: str
    remedy: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the result for `--json`."""
        return asdict(self)
