"""Makes `baichuan up` the parent of orphaned descendants, so that it can reap and kill them."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Collection
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the new parent of every descendant whose own parent dies (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(children: Collection[int]) -> None:
    """Reap adopted processes that have exited; the caller waits for `children` itself.

    Call this function from the main thread, which the kernel makes the parent of orphans.
    """
    for pid in set(_list_children()).difference(children):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def kill_orphans() -> None:
    """Kill and reap children of this process until none are left: killing one may orphan its own children."""
    while found := _list_children():
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in found:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _list_children() -> list[int]:
    listing = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    return [int(pid) for pid in listing.read_text().split()] if listing.exists() else []
