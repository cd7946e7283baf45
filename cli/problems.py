"""Turns errors raised by the client into one readable line and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from baichuan_client import (
    ApiError,
    ClientError,
    ConfigurationError,
    InvalidInputError,
    InvalidResponseError,
    UnreachableError,
)
from cli.errors import CommandError
from cli.exit_codes import ExitCode

START_HINT = "start the service with `baichuan up`, or set BAICHUAN_URL"


@contextmanager
def translate_client_errors() -> Iterator[None]:
    """Turn the client's errors into `CommandError`s.

    Raises:
        CommandError: The block raised a `ClientError` other than `InvalidInputError`.
    """
    try:
        yield
    except UnreachableError as error:
        raise CommandError(f"{error}; {START_HINT}", ExitCode.UNREACHABLE) from error
    except InvalidInputError:
        raise  # `cli.main.run` knows the arguments that may be at fault
    except ClientError as error:
        raise CommandError(str(error), _to_exit_code(error)) from error


def _to_exit_code(error: ClientError) -> ExitCode:
    match error:
        case ApiError(status=httpx.codes.UNAUTHORIZED | httpx.codes.FORBIDDEN):
            return ExitCode.UNAUTHENTICATED
        case ApiError(status=status):
            return ExitCode.UNREACHABLE if status >= httpx.codes.INTERNAL_SERVER_ERROR else ExitCode.REFUSED
        case InvalidResponseError():
            return ExitCode.UNREACHABLE
        case ConfigurationError():
            return ExitCode.USAGE
        case _:
            return ExitCode.FAILED
