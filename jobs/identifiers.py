"""Identifiers that sort by creation time."""

import secrets
import threading
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's Base32
_lock = threading.Lock()
_last_value = 0


def new_id(prefix: str) -> str:
    """Return a new id such as ``job-01kb3…``: a prefix and a lowercase ULID, monotonically increasing within a process.

    Specification: https://github.com/ulid/spec (48 bits of milliseconds, 80 random bits, monotonic).
    """
    global _last_value  # noqa: PLW0603 - the module's only state, which makes the ids of a process monotonic
    with _lock:
        value = (time.time_ns() // 1_000_000 << 80) | secrets.randbits(80)
        _last_value = value if value > _last_value else _last_value + 1
        value = _last_value
    return f"{prefix}-{_encode(value)}"


def get_min_id_at(prefix: str, milliseconds: int) -> str:
    """Return the smallest id that can be created at this time; ids created earlier sort before it."""
    return f"{prefix}-{_encode(milliseconds << 80)}"


def _encode(value: int) -> str:
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))
