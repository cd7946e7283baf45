"""Reads the settings of the deployment from the environment, for commands that access it directly."""

from cli.errors import CommandError
from cli.exit_codes import ExitCode
from jobs.settings import InvalidSettingsError, Settings, read_settings


def read_deployment_settings() -> Settings:
    """Read the settings of the deployment from the environment.

    Raises:
        CommandError: an environment variable has an invalid value.
    """
    try:
        return read_settings(Settings)
    except InvalidSettingsError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
