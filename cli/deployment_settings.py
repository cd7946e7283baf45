"""The deployment that the environment describes, for the commands that touch it directly."""

from cli.errors import CommandError
from cli.exit_codes import ExitCode
from jobs.settings import InvalidSettingsError, Settings, read_settings


def deployment_settings() -> Settings:
    """Read the settings.

    Raises:
        CommandError: a variable of the environment has a value that cannot be used.
    """
    try:
        return read_settings(Settings)
    except InvalidSettingsError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
