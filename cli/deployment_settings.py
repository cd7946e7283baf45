"""The deployment that the environment describes, for the commands that touch it directly."""

from pydantic import ValidationError

from cli.errors import CommandError
from cli.exit_codes import ExitCode
from jobs.settings import Settings


def deployment_settings() -> Settings:
    """Read the settings.

    Raises:
        CommandError: a variable of the environment has a value that cannot be used.
    """
    try:
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise CommandError(f"correct these variables of the environment: {wrong}", ExitCode.USAGE) from error
