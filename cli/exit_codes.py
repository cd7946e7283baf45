"""The exit codes of all `baichuan` commands, and what they mean."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of all commands; `baichuan --help` lists them."""

    OK = 0
    FAILED = 1  # the job failed or was cancelled, or the command failed
    USAGE = 2  # invalid options or arguments
    REFUSED = 3  # the service rejected the request
    UNAUTHENTICATED = 4  # the API key is missing, unknown, revoked or not allowed to do this
    UNREACHABLE = 5  # the service does not respond, or cannot handle requests at the moment
    INTERRUPTED = 130  # Ctrl-C


EXIT_CODE_HELP = (
    "Exit codes: 0 success; 1 the job failed or was cancelled, or the command failed; 2 usage error; 3 the service "
    "rejected the request; 4 the API key is missing or lacks permission; 5 the service does not respond; "
    "130 interrupted."
)
