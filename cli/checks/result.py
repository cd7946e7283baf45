"""The outcome of one check."""

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check; the status `note` is not a failure, and `remedy` describes the fix."""

    name: str
    status: Literal["ok", "note", "failed"]
    detail: str
    remedy: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the result for `--json`."""
        return asdict(self)
