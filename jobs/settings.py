"""Settings of a deployment: one frozen object per process, read from the environment when the process starts."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

EXIT_INVALID_SETTINGS = 2  # exit code for invalid settings; `baichuan up` does not restart a process that exits with it
DATABASE_SCHEMES = re.compile(r"(sqlite|postgres|postgresql(\+\w+)?)://")
STORE_SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "file", "http", "https")
REDIS_URL_PATTERN = re.compile(r"(redis|rediss|unix)://")

S = TypeVar("S", bound=BaseSettings)


class InvalidSettingsError(ValueError):
    """Environment variables have invalid values."""


class Settings(BaseSettings):
    """Storage locations and time limits. The defaults are those of the embedded deployment."""

    model_config = SettingsConfigDict(
        env_prefix="BAICHUAN_", frozen=True, extra="ignore", populate_by_name=True, allow_inf_nan=False
    )

    home: Path = Field(Path(".baichuan"), description="Directory that holds the state of the embedded deployment")
    database_url: str = Field(
        "", validation_alias="DATABASE_URL", description="Database URL; by default, SQLite in `home`"
    )
    redis_url: str = Field("", validation_alias="REDIS_URL", description="Redis URL; by default, the embedded server")
    artifact_root: str = Field(
        "", validation_alias="ARTIFACT_ROOT", description="Artifact store: a directory or s3://bucket/prefix"
    )
    model_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Directories, separated by ':', under which checkpoints may be registered"
    )

    lease_seconds: float = Field(
        30, gt=0, description="A running attempt counts as lost if its lease is not renewed for this long"
    )
    heartbeat_seconds: float = Field(5, gt=0, description="How often a worker renews its leases")
    pickup_seconds: float = Field(15, gt=0, description="A dispatched attempt must be claimed within this time")
    poll_seconds: float = Field(0.5, gt=0, description="How long the dispatcher sleeps if nothing wakes it")
    backoff_seconds: float = Field(5, ge=0, description="Wait before the second attempt; doubles for each further one")
    backoff_limit_seconds: float = Field(300, ge=0, description="Longest wait between two attempts")
    free_space_reserve_bytes: int = Field(
        256 * 2**20, ge=0, description="Space to leave free on the artifact store's disk"
    )

    cache_bytes: int = Field(
        100 * 2**30, ge=0, description="Maximum size of a machine's cache of an object store's files; 0: no limit"
    )
    keep_resume_points_days: float = Field(
        7, ge=0, description="How long resume points of a failed or cancelled fine-tune are kept; 0: forever"
    )
    keep_events_days: float = Field(
        0, ge=0, description="State changes and progress of final jobs are deleted after this many days; 0: never"
    )
    keep_logs_days: float = Field(
        0, ge=0, description="Output lines of final jobs are deleted after this many days; 0: never"
    )
    keep_chats_days: float = Field(
        90, ge=0, description="Chat rows, and any text stored in them, are deleted after this many days; 0: never"
    )
    keep_artifacts_days: float = Field(
        0, ge=0, description="Artifacts of final jobs, except models, are deleted after this many days; 0: never"
    )
    keep_jobs_days: float = Field(
        0,
        ge=0,
        description="Final jobs and results are deleted after this many days unless their model is in use; 0: never",
    )

    @field_validator("model_roots", mode="before")
    @classmethod
    def _split_model_roots(cls, value: object) -> object:
        return tuple(Path(part) for part in value.split(":") if part) if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _check_database(cls, value: str) -> str:
        if value and not DATABASE_SCHEMES.match(value):
            raise ValueError("must begin with postgresql:// or sqlite:///")
        return value

    @field_validator("redis_url")
    @classmethod
    def _check_redis(cls, value: str) -> str:
        if value and not REDIS_URL_PATTERN.match(value):
            raise ValueError("must begin with redis://, rediss:// or unix://")
        _ = urlsplit(value).port  # raises ValueError if the port is not a number
        return value

    @field_validator("artifact_root")
    @classmethod
    def _check_artifact_root(cls, value: str) -> str:
        if "://" not in value:
            return value
        url = urlsplit(value)
        if url.scheme not in STORE_SCHEMES or not (url.netloc or url.scheme == "file"):
            schemes = ", ".join(STORE_SCHEMES)
            raise ValueError(f"must be a directory, or a URL such as s3://bucket/prefix (supported schemes: {schemes})")
        return value

    @property
    def effective_database_url(self) -> str:
        """The SQLAlchemy URL to use."""
        return self.database_url or f"sqlite:///{self.home.resolve() / 'jobs.sqlite3'}"

    @property
    def effective_redis_url(self) -> str:
        """The Redis URL to use; `baichuan up` writes the URL of the embedded server to a file."""
        if self.redis_url:
            return self.redis_url
        written = self.home / "redis" / "url"
        return written.read_text().strip() if written.exists() else "redis://127.0.0.1:6379/0"

    @property
    def effective_artifact_root(self) -> str:
        """The artifact store to use: a directory, or a URL of an object store."""
        return self.artifact_root or str(self.home.resolve() / "artifacts")

    @property
    def allowed_model_roots(self) -> tuple[Path, ...]:
        """The resolved paths of the directories under which checkpoints may be registered."""
        return tuple(root.resolve() for root in self.model_roots or (self.home / "models",))


def read_settings(kind: type[S]) -> S:
    """Read settings from the environment.

    Raises:
        InvalidSettingsError: environment variables have invalid values; the message names them.
    """
    try:
        return kind()
    except ValidationError as error:
        faults = "; ".join(_describe_fault(kind, fault) for fault in error.errors(include_url=False))
        raise InvalidSettingsError(f"correct these environment variables: {faults}") from None


def read_settings_or_exit(kind: type[S]) -> S:
    """Read settings from the environment; on an error, print it on one line and exit with code 2."""
    try:
        return read_settings(kind)
    except InvalidSettingsError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(EXIT_INVALID_SETTINGS)


def _describe_fault(kind: type[BaseSettings], fault: Mapping[str, Any]) -> str:
    variable = _find_variable(kind, str(fault["loc"][0])) if fault["loc"] else kind.__name__
    # URLs are not shown, because they may contain passwords.
    given = "" if variable.endswith("_URL") or variable not in os.environ else f"={os.environ[variable]!r}"
    return f"{variable}{given}: {fault['msg'].removeprefix('Value error, ')}"


def _find_variable(kind: type[BaseSettings], name: str) -> str:
    """Return the environment variable that a field is read from; for aliased fields, `name` is the alias."""
    if name not in kind.model_fields:
        return name
    alias = kind.model_fields[name].validation_alias
    return alias if isinstance(alias, str) else f"{kind.model_config.get('env_prefix', '')}{name}".upper()
