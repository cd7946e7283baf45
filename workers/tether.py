"""Ties a process to its parent: the kernel kills the process when the thread that started it ends.

Otherwise, the fork server of a killed worker would keep importing for up to half a minute and hold hundreds of
megabytes, because it checks only after its imports whether the worker still exists.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have this process killed when its parent exits, or at once if the parent has already exited."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
