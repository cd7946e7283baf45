"""Settings of one worker process; the intervals and timeouts of the queue itself are in `jobs.settings`."""

import os
import re
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from jobs.identifiers import new_id
from jobs.specs import KINDS
from workers.inventory import DeclaredDevice, read_declaration

VARIABLE_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\*?")
# Jobs must not see the credentials of the service itself.
SERVICE_SECRETS = ("DATABASE_URL", "REDIS_URL", "BAICHUAN_API_KEY")


class WorkerSettings(BaseSettings):
    """Settings of a worker, read from the environment when it starts."""

    model_config = SettingsConfigDict(env_prefix="BAICHUAN_WORKER_", frozen=True, extra="ignore", allow_inf_nan=False)

    id: str = Field(
        default_factory=lambda: new_id("wrk"),
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
        description="Name of the worker and of its queue; must be unique among running workers",
    )
    slots: int = Field(
        0,
        ge=0,
        le=64,
        description="Maximum number of jobs that run at the same time; 0 means four per GPU, or one on a CPU",
    )
    devices: Annotated[tuple[DeclaredDevice, ...], NoDecode] = Field(
        (),
        description="JSON list of devices to use instead of all devices found, or the path of a file with such a list",
    )
    labels: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict,
        description="Labels that jobs can require in `resources.labels`: name=value pairs, separated by commas",
    )
    address: str = Field(
        "",
        pattern=r"^[A-Za-z0-9.:-]{0,253}$",
        description="Address at which other machines can reach this one; by default, the address of the interface "
        "used to reach Redis",
    )
    kinds: Annotated[tuple[str, ...], NoDecode] = Field(
        KINDS, min_length=1, description="Job kinds to run, separated by commas"
    )
    start_method: Literal["auto", "forkserver", "spawn"] = Field(
        "auto",
        description="How runners start: forked from a server that has done the imports, or spawned; auto spawns if "
        "there is a GPU",
    )
    threads: int = Field(0, ge=0, description="CPU threads per job; 0 divides the cores among the slots")
    runner_variables: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Variables that jobs may see, separated by commas; a final * matches a prefix, as in "
        "WANDB_*,MLFLOW_*",
    )
    directive_seconds: float = Field(0.5, gt=0, description="How often to check whether a job was cancelled")
    progress_seconds: float = Field(
        1.0, gt=0, description="Minimum time between two writes of progress and log lines to the database"
    )
    log_bytes: int = Field(4 * 2**20, ge=0, description="Maximum amount of output that is kept per attempt")
    start_seconds: float = Field(300, gt=0, description="How long a runner may take to start, including imports")
    pause_seconds: float = Field(
        60, gt=0, description="How long a job may take to save a resume point or finish its chats before it is stopped"
    )
    exit_seconds: float = Field(5, gt=0, description="How long a runner may take to exit after its final message")
    keep_seconds: float = Field(
        300, ge=0, description="How long a runner keeps its last model loaded for another job; 0 disables this"
    )
    memory_reserve_bytes: int = Field(
        2**30, ge=0, description="Idle runners are closed while the host or their device has less free memory than this"
    )
    drain_seconds: float = Field(8, gt=0, description="Maximum time from SIGTERM until the worker exits")

    @field_validator("kinds", "runner_variables", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("kinds")
    @classmethod
    def _check_kinds(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(value) - set(KINDS)):
            raise ValueError(f"unknown kinds {', '.join(unknown)}; the known kinds are {', '.join(KINDS)}")
        return value

    @field_validator("runner_variables")
    @classmethod
    def _reject_service_secrets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [name for name in value if not VARIABLE_PATTERN.fullmatch(name)]:
            raise ValueError(f"{wrong[0]!r} is not the name of a variable; write NAME, or NAME_* for a prefix")
        for name in SERVICE_SECRETS:
            if matching := [pattern for pattern in value if fnmatchcase(name, pattern)]:
                raise ValueError(f"{matching[0]!r} would expose {name} to jobs; list only the variables that jobs need")
        return value

    @field_validator("devices", mode="before")
    @classmethod
    def _read_devices(cls, value: object) -> object:
        return (read_declaration(value) if value.strip() else ()) if isinstance(value, str) else value

    @field_validator("labels", mode="before")
    @classmethod
    def _read_labels(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [part.strip().partition("=") for part in value.split(",") if part.strip()]
        if wrong := [name for name, equals, _ in pairs if not (name and equals)]:
            raise ValueError(f"{wrong[0]!r} is not in the format name=value")
        labels = {name.strip(): label.strip() for name, _, label in pairs}
        if len(labels) < len(pairs):
            raise ValueError("a label name appears twice; use each name only once")
        return labels

    @property
    def threads_per_job(self) -> int:
        """CPU threads that one runner may use, once `slots` is resolved."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // self.slots)
