"""The resources that a user requests instead of the estimated ones: devices, memory, sharing and worker labels."""

from typing import Annotated

from pydantic import Field, StringConstraints

from jobs.specs.fields import LabelKey, LabelValue, StrictModel

WorkerName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class Resources(StrictModel):
    """Where a job may run; values that are not set are derived from an estimate of the job's memory."""

    nodes: int = Field(1, ge=1, le=256, description="Number of machines that run the job together")
    devices: int | None = Field(None, ge=0, le=64, description="Number of devices per node; 0 uses only host memory")
    device_memory_bytes: int | None = Field(
        None, ge=1, le=2**50, description="Memory to reserve on each device, instead of the estimate"
    )
    share: bool | None = Field(
        None, description="Whether other jobs may use the same devices; by default all kinds but finetune share"
    )
    workers: list[WorkerName] | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="Ids (BAICHUAN_WORKER_ID) of the workers that may run the job; by default, all workers may",
    )
    labels: dict[LabelKey, LabelValue] = Field(
        default_factory=dict, max_length=16, description="Labels that the worker must have (BAICHUAN_WORKER_LABELS)"
    )
