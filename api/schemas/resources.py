"""Files, models, workers and keys, as clients see them."""

from typing import Literal, Self

from pydantic import BaseModel, Field

from api.schemas.pages import IdentifiedObject
from api.schemas.purposes import to_displayed_purpose
from api.schemas.times import to_optional_seconds, to_seconds
from jobs.models.details import ModelDetails, read_details
from jobs.records import FileRecord, Json, KeyRecord, ModelRecord, WorkerRecord


class FileObject(IdentifiedObject):
    """An uploaded file, or an artifact of a job."""

    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    sha256: str
    status: Literal["uploaded", "processed", "error"] = "processed"
    status_details: str | None = Field(None, description="Why the status is `error`, with the line number")
    expires_at: int | None = None
    job_id: str | None = Field(None, description="The job that published this file as an artifact")

    @classmethod
    def from_record(cls, file: FileRecord) -> Self:
        """Return the file as clients see it."""
        return cls(
            id=file.id,
            bytes=file.bytes,
            created_at=to_seconds(file.created_at),
            filename=file.filename,
            purpose=to_displayed_purpose(file.purpose),
            sha256=file.sha256,
            status="error" if file.status == "error" else "processed",
            status_details=file.status_details,
            expires_at=to_optional_seconds(file.expires_at),
            job_id=file.job_id,
        )


class ModelObject(IdentifiedObject):
    """A checkpoint or adapter that specs can name."""

    object: Literal["model"] = "model"
    created: int
    owned_by: str
    kind: str
    base: str | None
    job_id: str | None
    path: str | None
    details: ModelDetails | Json = Field(
        description="Depends on the model's kind; has other fields if another version of the service stored it"
    )

    @classmethod
    def from_record(cls, model: ModelRecord, caller: KeyRecord) -> Self:
        """Return the model as clients of its project see it."""
        return cls(
            id=model.id,
            created=to_seconds(model.created_at),
            owned_by=caller.project,
            kind=model.kind,
            base=model.base,
            job_id=model.job_id,
            path=model.path,
            details=read_details(model.kind, model.details),
        )


class DeviceObject(BaseModel):
    """A device on a worker's machine; values that cannot be measured are null."""

    type: str
    index: int
    uuid: str
    name: str
    memory_bytes: int
    cores: int | None = None
    capability: str | None = Field(None, description="CUDA compute capability, for example 9.0")
    used_bytes: int | None = Field(None, description="Memory in use by all processes")
    used_by_others_bytes: int | None = Field(None, description="Memory in use by processes outside the service")
    utilization: int | None = Field(None, description="Percentage of time during which the device was busy")
    temperature: int | None = Field(None, description="Degrees Celsius")

    @classmethod
    def from_report(cls, reported: Json) -> Self:
        """Return the device as its worker reported it; workers of other versions may report fewer fields."""
        kind, index = reported.get("type", "cpu"), reported.get("index", 0)
        known = {name: value for name, value in reported.items() if name in cls.model_fields}
        return cls(**({"type": kind, "index": index, "uuid": f"{kind}-{index}", "name": "", "memory_bytes": 0} | known))


class HostObject(BaseModel):
    """The machine that a worker runs on."""

    memory_bytes: int | None = None
    available_bytes: int | None = None
    cores: int | None = None


class ModelDeviceObject(BaseModel):
    """A device that holds a loaded model, and the memory that the model uses there."""

    uuid: str
    bytes: int


class LoadedModelObject(BaseModel):
    """A model that a runner keeps loaded; ids are null if it belongs to another project."""

    id: str | None
    adapter: str | None
    dtype: str = Field(description="Dtype that its jobs request; auto means the checkpoint's own")
    engine: str
    devices: list[ModelDeviceObject]
    host_bytes: int = Field(description="Host memory, including that of a model on the CPU")
    since: int = Field(description="When the model was loaded")
    state: Literal["idle", "busy"] = Field(
        description="Whether a job is using the model; idle models make room for other jobs"
    )

    @classmethod
    def from_report(cls, reported: Json, caller: KeyRecord) -> Self:
        """Return a model as its worker reported it, leaving out what the caller may not see."""
        own = reported["project_id"] == caller.project_id
        return cls(
            id=reported["id"] if own else None,
            adapter=reported["adapter"] if own else None,
            dtype=reported["dtype"],
            engine=reported["engine"],
            devices=[ModelDeviceObject(**device) for device in reported["devices"]],
            host_bytes=reported["host_bytes"],
            since=to_seconds(reported["since"]),
            state="busy" if reported["busy"] else "idle",
        )


class WorkerObject(IdentifiedObject):
    """A worker that has reported recently."""

    object: Literal["worker"] = "worker"
    hostname: str
    pid: int
    state: str
    kinds: list[str]
    slots: int
    devices: list[DeviceObject]
    host: HostObject
    labels: dict[str, str]
    models: list[LoadedModelObject] = Field(description="Models that its runners keep loaded")
    drain_at: int | None = Field(description="When it must give back its jobs; a time far in the future means never")
    created_at: int
    seen_at: int

    @classmethod
    def from_record(cls, worker: WorkerRecord, caller: KeyRecord) -> Self:
        """Return the worker as the caller sees it."""
        return cls(
            id=worker.id,
            hostname=worker.hostname,
            pid=worker.pid,
            state="draining" if worker.drain_at is not None else worker.state,
            kinds=worker.kinds,
            slots=worker.slots,
            devices=[DeviceObject.from_report(device) for device in worker.devices],
            host=HostObject(**worker.host),
            labels=dict(worker.labels),
            models=[LoadedModelObject.from_report(model, caller) for model in worker.models],
            drain_at=to_optional_seconds(worker.drain_at),
            created_at=to_seconds(worker.started_at),
            seen_at=to_seconds(worker.seen_at),
        )


class KeyObject(IdentifiedObject):
    """An API key without its secret."""

    object: Literal["api_key"] = "api_key"
    name: str
    project: str
    role: str
    hint: str
    created_at: int
    revoked_at: int | None

    @classmethod
    def from_record(cls, key: KeyRecord) -> Self:
        """Return the key as administrators see it."""
        return cls(
            id=key.id,
            name=key.name,
            project=key.project,
            role=key.role,
            hint=key.hint,
            created_at=to_seconds(key.created_at),
            revoked_at=to_optional_seconds(key.revoked_at),
        )


class NewKeyObject(KeyObject):
    """A new API key, in the only response that contains its secret."""

    secret: str = ""


class Deleted(BaseModel):
    """The confirmation that an object was deleted."""

    id: str
    object: str
    deleted: Literal[True] = True
