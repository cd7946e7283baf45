"""Messages between a worker and its runners: JSON, one message per line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from jobs.artifacts import StoredFile
from jobs.chats.messages import CALL_ADAPTER, Call, Reply
from jobs.results import AnyResult
from jobs.scheduling import LoadedModel
from jobs.service.claims import Claim
from jobs.service.metrics import Point
from jobs.specs import AnySpec
from workers.failures import Failure
from workers.handlers.contract import HandlerOutcome


@dataclass(frozen=True, slots=True)
class Storage:
    """The locations that a runner reads models from and writes results to.

    Attributes:
        artifact_root: A directory, or the URL of an object store.
        cache: Folder for copies of objects in the store.
        cache_bytes: Maximum size of these copies.
        variables: Credentials of the object store, by the names of the environment variables that its library reads.
        model_roots: Directories that may contain registered models.
        free_space_reserve_bytes: Bytes to leave free on the disk.
    """

    artifact_root: str
    cache: Path
    cache_bytes: int
    variables: Mapping[str, str]
    model_roots: Sequence[Path]
    free_space_reserve_bytes: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """To a runner: run this attempt.

    Attributes:
        claim: The attempt.
        storage: Locations of models and results.
        threads: Number of CPU threads that the runner may use.
        keep: Whether the runner keeps its model loaded and waits for another attempt.
        hub_token: The worker's token for a model hub, if the job's kind may use it.
    """

    claim: Claim
    storage: Storage
    threads: int
    keep: bool = False
    hub_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Progressed:
    """From a runner: progress of the operation."""

    fraction: float
    stage: str
    metrics: Mapping[str, float | None]
    type: Literal["progressed"] = "progressed"


@dataclass(frozen=True, slots=True)
class Measured:
    """From a runner: the metrics logged at one step; no step is skipped."""

    point: Point
    type: Literal["measured"] = "measured"


@dataclass(frozen=True, slots=True)
class ModelKept:
    """From a runner: the model that it keeps loaded while it waits for another attempt.

    Attributes:
        model: The model.
        engine: The engine that runs it.
        device_bytes: Bytes of memory that it uses on each of its GPUs.
        host_bytes: Bytes of host memory that it uses.
    """

    model: LoadedModel
    engine: str
    device_bytes: Sequence[int]
    host_bytes: int

    def is_usable_for(self, spec: AnySpec) -> bool:
        """Whether a job can use the model: only generation can choose the engine; other jobs need the native one."""
        return getattr(spec, "engine", NATIVE_ENGINE) in (self.engine, "auto")


@dataclass(frozen=True, slots=True)
class Finished:
    """From a runner: all results are written and published in the store."""

    outcome: HandlerOutcome[AnyResult]
    stored: Sequence[StoredFile]
    kept: ModelKept | None = None
    type: Literal["finished"] = "finished"


@dataclass(frozen=True, slots=True)
class Failed:
    """From a runner: the attempt failed."""

    failure: Failure
    kept: ModelKept | None = None
    type: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True)
class Paused:
    """From a runner: it has saved a resume point and is releasing its devices, as requested."""

    type: Literal["paused"] = "paused"


@dataclass(frozen=True, slots=True)
class ServingChanged:
    """From a runner: whether the attempt accepts chats."""

    accepts: bool
    type: Literal["serves"] = "serves"


@dataclass(frozen=True, slots=True)
class Replied:
    """From a runner: all replies to chats that were ready at the same time."""

    replies: Sequence[Reply]
    type: Literal["replied"] = "replied"


NATIVE_ENGINE = "transformers"
PAUSE_COMMAND = b"pause\n"  # to a runner, after its assignment: save a resume point and release the devices
MAKE_ROOM_COMMAND = b"make room\n"  # to a runner: end the serve job once no chats are open
CALL_PREFIX = b"call "  # to a runner: the line contains a call (a line with an assignment begins with a brace)
Message = Annotated[
    Progressed | Measured | Finished | Failed | Paused | ServingChanged | Replied, Field(discriminator="type")
]

_ASSIGNMENT_ADAPTER: TypeAdapter[Assignment] = TypeAdapter(Assignment)
_MESSAGE_ADAPTER: TypeAdapter[Message] = TypeAdapter(Message)


def encode_assignment(assignment: Assignment) -> bytes:
    """Return an assignment as a line for a runner."""
    return _ASSIGNMENT_ADAPTER.dump_json(assignment) + b"\n"


def decode_assignment(line: bytes) -> Assignment:
    """Read a line that `encode_assignment` wrote."""
    return _ASSIGNMENT_ADAPTER.validate_json(line)


def encode_message(message: Message) -> bytes:
    """Return a message as a line for a worker."""
    return _MESSAGE_ADAPTER.dump_json(message) + b"\n"


def decode_message(line: bytes) -> Message:
    """Read a line that `encode_message` wrote."""
    return _MESSAGE_ADAPTER.validate_json(line)


def encode_call(attempt_id: str, call: Call) -> bytes:
    """Return a call to an attempt as a line for its runner."""
    return CALL_PREFIX + attempt_id.encode() + b" " + CALL_ADAPTER.dump_json(call) + b"\n"


def decode_call(line: bytes) -> tuple[str, Call]:
    """Read a line that `encode_call` wrote; return the attempt's id and the call."""
    attempt_id, _, text = line.removeprefix(CALL_PREFIX).partition(b" ")
    return attempt_id.decode(), CALL_ADAPTER.validate_json(text)
