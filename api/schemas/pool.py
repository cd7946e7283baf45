"""The history of workers and their devices, and the usage of a project."""

from typing import Literal

from pydantic import BaseModel, Field


class DeviceHistory(BaseModel):
    """A device's measurements over time; each list has one entry per point in time, null if nothing was measured."""

    uuid: str
    type: str
    index: int
    name: str
    memory_bytes: int
    used_bytes: list[int | None] = Field(description="Peak memory in use by all processes")
    utilization: list[int | None] = Field(description="Highest percentage of time during which the device was busy")
    temperature: list[int | None] = Field(description="Highest temperature in degrees Celsius")


class WorkerHistory(BaseModel):
    """A worker's machine over the last hour."""

    object: Literal["worker.history"] = "worker.history"
    worker_id: str
    times: list[int] = Field(description="Seconds since the epoch, in order")
    host_memory_bytes: int | None
    host_available_bytes: list[int | None] = Field(description="Minimum of the memory available on the host")
    devices: list[DeviceHistory]


class UsageEntry(BaseModel):
    """The usage of one API key on one day."""

    day: str = Field(description="YYYY-MM-DD, UTC")
    key_id: str | None = Field(description="Null for jobs submitted to earlier releases, which did not record the key")
    key_name: str
    jobs: int = Field(description="Number of jobs submitted")
    device_seconds: float = Field(description="Duration times number of devices, for attempts that ended on that day")
    tokens: int = Field(description="Trained, prompt and completion tokens of jobs that succeeded on that day")


class Usage(BaseModel):
    """The usage of a project by day and key, oldest first."""

    object: Literal["usage"] = "usage"
    data: list[UsageEntry]
