"""Script that a launcher starts for each rank: `rank_main.py MESSAGE_DESCRIPTOR LAUNCHER_PID`, with the task on stdin.

Before it imports anything slow, it makes sure that the process dies with its launcher.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run one rank."""
    messages, launcher = map(int, sys.argv[1:])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:  # the launcher exited before the line above took effect
        sys.exit("the launcher has exited")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the launcher handles it

    from baichuan_core.finetuning.distributed.rank import run_rank  # noqa: PLC0415 - see above

    run_rank(messages)


if __name__ == "__main__":
    main()
