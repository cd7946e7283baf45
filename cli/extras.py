"""The optional packages of this distribution, which client commands do not need."""

import importlib.util

from cli.errors import CommandError
from cli.exit_codes import ExitCode

SERVICE_PACKAGES = ("sqlalchemy", "alembic", "celery", "redis", "obstore", "psycopg", "pydantic_settings")
EXTRAS = {
    "service": SERVICE_PACKAGES,
    "api": (*SERVICE_PACKAGES, "fastapi", "uvicorn"),
    "engine": (
        *SERVICE_PACKAGES,
        *("torch", "transformers", "bitsandbytes", "peft", "sentencepiece", "safetensors", "accelerate"),
    ),
}


def find_missing_packages(extra: str) -> list[str]:
    """Return the packages of an extra that are not installed, without importing any."""
    return [package for package in EXTRAS[extra] if importlib.util.find_spec(package) is None]


def require_extras(command: str, *extras: str) -> None:
    """Check that the packages that a command needs are installed.

    Args:
        command: The command as the user types it.
        extras: Names of the extras that contain them.

    Raises:
        CommandError: Some of the packages are not installed.
    """
    missing = dict.fromkeys(package for extra in extras for package in find_missing_packages(extra))
    if missing:
        remedy = f"run {format_install_command(*extras)}"
        message = f"`{command}` needs packages that are not installed: {', '.join(missing)}; {remedy}"
        raise CommandError(message, ExitCode.USAGE)


def format_install_command(*extras: str) -> str:
    """Return the command that installs these extras."""
    return f"`pip install 'baichuan-jobs[{','.join(extras)}]'`"
