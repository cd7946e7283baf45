"""Ties the fork server to its worker. The fork server imports this module first; nothing else may.

Without it a killed worker's fork server goes on importing for up to half a minute, with hundreds of megabytes: only
after its imports does it look whether the worker is still there.
"""

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1

if sys.platform == "linux":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
