"""Processes that lose their parent below `baichuan up` come back to it, so that none is left behind."""

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
    """Take note of the end of adopted processes, which would stay zombies; `children` are somebody else's to wait for.

    Call it from the main thread: the kernel gives orphans to it.
    """
    for pid in set(_children()).difference(children):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def kill_orphans() -> None:
    """Kill and reap all children of this process, until there are none: killing one may hand over its own."""
    while found := _children():
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in found:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> list[int]:
    listing = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    return [int(pid) for pid in listing.read_text().split()] if listing.exists() else []
