"""Ties a process to its parent: the kernel kills it when the thread that started it ends.

Without it, the fork server of a killed worker continues to import for up to half a minute and holds hundreds of
megabytes, because it checks only after its imports whether the worker still exists.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Kill this process when its parent ends, or at once if the parent has already ended."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
