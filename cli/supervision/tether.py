"""Runs a command that the kernel kills when its parent dies: `python tether.py PARENT_PID COMMAND …`.

It runs as a separate script (`-I -S`, about 15 ms), because `preexec_fn` is unsafe in a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then replace this process with the command."""
    parent = int(sys.argv[1])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the line above took effect
        sys.exit("the parent process has exited")
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - the caller chooses the command


if __name__ == "__main__":
    main()
