"""The history of workers and their devices, and the usage of a project."""

from typing import Literal

from pydantic import BaseModel, Field


class DeviceHistory(BaseModel):
    """A device over time; the lists have one entry per time, null where nothing was measured."""

    uuid: str
    type: str
    index: int
    name: str
    memory_bytes: int
    used_bytes: list[int | None] = Field(description="Most memory in use by anybody")
    utilization: list[int | None] = Field(description="Highest percentage of the time in which it computed")
    temperature: list[int | None] = Field(description="Highest temperature in degrees Celsius")


class WorkerHistory(BaseModel):
    """A worker's machine over the last hour."""

    object: Literal["worker.history"] = "worker.history"
    worker_id: str
    times: list[int] = Field(description="Seconds since the epoch, in order")
    host_memory_bytes: int | None
    host_available_bytes: list[int | None] = Field(description="Least memory available on the host")
    devices: list[DeviceHistory]


class UsageEntry(BaseModel):
    """The usage of one API key on one day."""

    day: str = Field(description="YYYY-MM-DD, UTC")
    key_id: str | None = Field(description="Null for jobs of earlier releases, which did not record it")
    key_name: str
    jobs: int = Field(description="Jobs submitted")
    device_seconds: float = Field(description="Seconds times devices of attempts that ended on that day")
    tokens: int = Field(description="Tokens of jobs that succeeded on that day: trained on, or of prompts and answers")


class Usage(BaseModel):
    """The usage of a project by day and key, oldest first."""

    object: Literal["usage"] = "usage"
    data: list[UsageEntry]
