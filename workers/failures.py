"""Translates an exception in the runner into a message for the job's owner, and decides whether a retry makes sense."""

import errno
import re
import signal
from dataclasses import dataclass

from baichuan_core.errors import BaichuanError, DatasetError, PromptError
from baichuan_core.out_of_memory import is_out_of_memory
from jobs.errors import DomainError

# OSErrors that would occur again in the next attempt.
PERMANENT_OS_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
MAX_MESSAGE_CHARACTERS = 4000
REQUEST_ERRORS = (DatasetError, PromptError)  # engine errors after which the loaded model is still usable
RENAMED_CODES = {"insufficient_space": "insufficient_storage"}  # maps the engine's error codes to ours


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason an attempt failed; a permanent failure would recur if the attempt were repeated.

    Attributes:
        code: The error code.
        message: The message for the job's owner.
        permanent: Whether the failure would recur in another attempt.
        expected: Whether the error was raised deliberately, so that its message is enough and a traceback only noise.
        of_request: Whether the request was at fault, so that the runner can continue.
    """

    code: str
    message: str
    permanent: bool
    expected: bool = True
    of_request: bool = False

    def to_job_error(self) -> dict[str, str]:
        """Return the error to store for the job.

        Characters that databases or JSON reject are replaced, because the message may quote user input.
        """
        message = self.message.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
        return {"code": self.code, "message": message[:MAX_MESSAGE_CHARACTERS]}


def make_failure(exception: BaseException) -> Failure:
    """Translate an exception in the runner into a failure to report to the job's owner."""
    match exception:
        case DomainError():
            return Failure(exception.code, exception.message, permanent=True, of_request=True)
        case BaichuanError():
            of_request = isinstance(exception, REQUEST_ERRORS)
            code, permanent = _build_error_code(type(exception)), not exception.may_pass
            return Failure(code, str(exception), permanent=permanent, of_request=of_request)
        case _ if is_out_of_memory(exception):
            message = f"the worker ran out of memory: {exception!r}; use smaller batches or shorter lengths"
            return Failure("out_of_memory", message, permanent=False)
        case OSError():
            return _convert_os_error(exception)
        case _:
            message = f"{type(exception).__name__}: {exception}; the job's log has the traceback"
            return Failure("internal_error", message, permanent=True, expected=False)


def make_runner_exit_failure(exit_code: int | None) -> Failure:
    """Return the failure for a runner that exited without a final message."""
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = " (the machine may be out of memory)" if name == "SIGKILL" else ""
        return Failure("runner_killed", f"the runner was killed by {name}{hint}", permanent=False)
    message = f"the runner exited without a result (exit code {exit_code}); see the job's log"
    return Failure("runner_died", message, permanent=False)


def make_timeout_failure(seconds: float) -> Failure:
    """Return the failure for an attempt that exceeded its time limit."""
    message = f"the attempt ran longer than timeout_seconds={seconds:g}; increase the limit or make the job smaller"
    return Failure("timeout", message, permanent=True)


def make_start_timeout_failure(seconds: float) -> Failure:
    """Return the failure for a runner that did not start in time."""
    message = f"the runner did not start within BAICHUAN_WORKER_START_SECONDS={seconds:g}; is the machine overloaded?"
    return Failure("runner_start_timeout", message, permanent=False)


def _build_error_code(kind: type) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__.removesuffix("Error")).lower()
    return RENAMED_CODES.get(words, words)


def _convert_os_error(exception: OSError) -> Failure:
    if exception.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure("insufficient_storage", f"the disk is full: {exception}", permanent=False)
    permanent = isinstance(exception, PERMANENT_OS_ERRORS)
    return Failure("io_error", f"{type(exception).__name__}: {exception}", permanent=permanent, expected=False)
