"""The interface of all handlers. Handlers load torch, so only runner processes import them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from baichuan_core.progress import ProgressCallback
from jobs.results import AnyResult, Result
from jobs.service.attempts import ProducedModel
from jobs.specs import AnySpec
from workers.handlers.chat_channel import ChatChannel
from workers.resume_points import ResumePoints

if TYPE_CHECKING:
    from baichuan_core.checkpoint import ModelCache

R_co = TypeVar("R_co", bound=Result, covariant=True)


@dataclass(frozen=True, slots=True)
class HandlerPlacement:
    """The devices and machines that a handler runs on.

    Attributes:
        devices: Number of devices that it uses on this machine.
        nodes: Number of machines that run the job together.
        node: Index of this machine.
        address: Address of machine 0.
        port: Port at which the other machines reach machine 0; None if there is only one machine.
    """

    devices: int = 1
    nodes: int = 1
    node: int = 0
    address: str = "127.0.0.1"
    port: int | None = None


@dataclass(frozen=True, slots=True)
class HandlerContext:
    """The inputs that a spec names for its handler, and the folders for the handler's output.

    Attributes:
        models: Directories of checkpoints and adapters, by the spec's field; if `model` names an adapter, its directory
            is under `adapter` and its base's under `model`.
        files: Uploaded files, by the spec's field.
        output: Existing folder whose files become artifacts; a produced model goes to `output / "model"`.
        checkpoints: Existing folder for resume points from which later attempts continue.
        earlier_checkpoints: The `checkpoints` folders of earlier attempts at this job, newest first.
        report: Callback for progress.
        loaded: Keeps the model that is loaded for inference, for this job and the next one.
        resume_points: Resume points of this attempt and of earlier ones, in the artifact store; None outside a runner.
        should_pause: Returns whether the job must save what it needs to continue, and release its devices.
        should_make_room: Returns whether other jobs are waiting, so that a serve job must end as soon as it is idle.
        placement: Devices and machines of the job.
        chats: Channel for calls to the attempt and for its replies; None outside a runner.
        hub_token: The worker's token for a model hub, if the job's kind may use it and the worker has one.
        reserve_bytes: Bytes to leave free on the disk.
    """

    models: Mapping[str, Path]
    files: Mapping[str, Path]
    output: Path
    checkpoints: Path
    earlier_checkpoints: Sequence[Path]
    report: ProgressCallback
    loaded: "ModelCache | None" = None
    resume_points: ResumePoints | None = None
    should_pause: Callable[[], bool] = lambda: False
    should_make_room: Callable[[], bool] = lambda: False
    placement: HandlerPlacement = field(default_factory=HandlerPlacement)
    chats: ChatChannel | None = None
    hub_token: str | None = field(default=None, repr=False)
    reserve_bytes: int = 0

    @property
    def model_output(self) -> Path:
        """Directory for the produced model."""
        return self.output / MODEL_FOLDER


@dataclass(frozen=True, slots=True)
class HandlerOutcome(Generic[R_co]):
    """The result of a job, in addition to the files in `output`."""

    result: R_co
    model: ProducedModel | None = field(default=None)


class DevicesReleasedError(Exception):
    """The job has released its devices, as requested; another attempt will continue it."""


class Handler(Protocol):
    """The interface that the handler modules in this folder implement."""

    def run(self, spec: Any, context: HandlerContext) -> HandlerOutcome[AnyResult]:
        """Run the job."""
        ...

    def estimate_output_bytes(self, spec: Any, checkpoint_bytes: int) -> int:
        """Estimate the bytes that will be written for a checkpoint of this size."""
        ...


MODEL_FOLDER = "model"


def import_handler(spec: AnySpec) -> Handler:
    """Import the handler for a spec's kind."""
    return cast(Handler, import_module(f"workers.handlers.{spec.kind}"))
