"""The meaning of the exit codes of all `baichuan` commands."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of all commands; `baichuan --help` lists them."""

    OK = 0
    FAILED = 1  # the job failed or was cancelled, or the command failed
    USAGE = 2  # invalid options or arguments
    REFUSED = 3  # the service refused the request
    UNAUTHENTICATED = 4  # the API key is missing, unknown, revoked or not allowed to do this
    UNREACHABLE = 5  # the service does not answer, or cannot serve requests now
    INTERRUPTED = 130  # Ctrl-C


EXIT_CODE_HELP = (
    "Exit codes: 0 done; 1 the job failed or was cancelled, or the command failed; 2 wrong usage; 3 the service "
    "refused the request; 4 the API key is missing or not allowed; 5 the service does not answer; 130 interrupted."
)
