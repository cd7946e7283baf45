"""Ties a process to its parent: the kernel kills it when the thread that started it ends.

Without it a killed worker's fork server goes on importing for up to half a minute, with hundreds of megabytes: only
after its imports does it look whether the worker still exists.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Kill this process when its parent ends, or at once if that has happened already."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
