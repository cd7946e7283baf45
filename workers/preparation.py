"""Finds, in the runner, what a spec names: checked paths on this machine's disk, and room for the result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.artifacts import ArtifactStore, workspace_key
from jobs.checkpoints import allowed_path
from jobs.errors import InsufficientStorageError, InvalidRequestError
from jobs.records import FileRecord, ModelRecord
from jobs.service.claims import Claim
from jobs.settings import Settings
from jobs.specs import AnySpec
from workers.handlers.contract import Context, Handler, Reported

OUTPUT = "output"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, slots=True)
class Workspace:
    """Keys of what one attempt writes."""

    key: str

    @classmethod
    def of(cls, claim: Claim) -> "Workspace":
        """The attempt's own."""
        return cls(workspace_key(claim.job.id, claim.attempt.id))

    @property
    def output(self) -> str:
        """Of the artifacts."""
        return f"{self.key}/{OUTPUT}"

    @property
    def checkpoints(self) -> str:
        """Of what can be resumed from."""
        return f"{self.key}/{CHECKPOINTS}"


def prepare(claim: Claim, store: ArtifactStore, settings: Settings, report: Callable[[Reported], None]) -> Context:
    """Everything a handler needs.

    Raises:
        InvalidRequestError: a model or file is gone or is of the wrong kind, or a path is no longer allowed.
    """
    _require_files(claim)
    workspace = Workspace.of(claim)
    earlier = [workspace_key(claim.job.id, attempt_id) for attempt_id in reversed(claim.earlier_attempts)]
    return Context(
        models={field: locate(model, field, store, settings) for field, model in named_models(claim).items()},
        files={field: _upload(file, field, store) for field, file in claim.files.items()},
        output=store.workspace(workspace.output),
        checkpoints=store.workspace(workspace.checkpoints),
        earlier_checkpoints=[store.workspace(f"{key}/{CHECKPOINTS}") for key in earlier],
        report=report,
    )


def named_models(claim: Claim) -> Mapping[str, ModelRecord]:
    """The models by field, an adapter that stands in for its base taken apart.

    Raises:
        InvalidRequestError: a model is gone, or an adapter is where a checkpoint must be, or the other way round.
    """
    for field, name in claim.spec.model_references().items():
        if field not in claim.models:
            raise InvalidRequestError(f"model {name!r} no longer exists; name another one", param=field)
    model, adapter = claim.models["model"], claim.models.get("adapter")
    if adapter is not None and adapter.kind != "adapter":
        raise InvalidRequestError(f"model {adapter.id!r} is no adapter but a whole {adapter.kind}", param="adapter")
    other = claim.models.get("compare_with")
    if other is not None and other.kind == "adapter":
        message = f"model {other.id!r} is an adapter; compare with a whole checkpoint, and give the adapter to `model`"
        raise InvalidRequestError(message, param="compare_with")
    if model.kind != "adapter":
        return claim.models
    if "adapter" not in type(claim.spec).model_fields:
        message = f"model {model.id!r} is an adapter; a {claim.job.kind} job needs a whole checkpoint such as its base"
        raise InvalidRequestError(message, param="model")
    if adapter is not None:
        message = f"model {model.id!r} is an adapter itself; name its base as model, or leave adapter out"
        raise InvalidRequestError(message, param="adapter")
    base = claim.bases.get("model")
    if base is None or base.kind == "adapter" or base.state != "ready":
        message = f"the base of adapter {model.id!r} is not known; name the base as model and this one as adapter"
        raise InvalidRequestError(message, param="model")
    return {**claim.models, "model": base, "adapter": model}


def locate(model: ModelRecord, field: str, store: ArtifactStore, settings: Settings) -> Path:
    """The directory of a model; registered ones are checked anew, for roots and links may have changed.

    Raises:
        InvalidRequestError: it is gone.
        PathNotAllowedError: it lies outside the allowed roots.
    """
    if model.path is not None:
        if not Path(model.path).is_dir():
            message = f"the directory of model {model.id!r}, {model.path}, is gone; put it back or register it anew"
            raise InvalidRequestError(message, param=field)
        return allowed_path(model.path, settings.allowed_model_roots)
    folder = store.local(model.key or "")
    if not folder.is_dir():
        message = f"the files of model {model.id!r} are gone from the artifact store; run job {model.job_id} again"
        raise InvalidRequestError(message, param=field)
    return folder


def require_room(spec: AnySpec, handler: Handler, context: Context, store: ArtifactStore, settings: Settings) -> None:
    """Refuse at once what cannot be written in the end.

    Raises:
        InsufficientStorageError: the store has too little room; says how much is needed and free.
    """
    size = sum(file.stat().st_size for file in context.models["model"].iterdir() if file.is_file())
    needed = handler.output_bytes(spec, size) + settings.free_space_reserve_bytes
    free = store.free_bytes()
    if free < needed:
        message = f"this job needs about {needed} bytes of disk, {free} are free; delete what is no longer needed"
        raise InsufficientStorageError(message, param="model")


def _require_files(claim: Claim) -> None:
    for field, file_id in claim.spec.file_references().items():
        if field not in claim.files:
            raise InvalidRequestError(f"file {file_id} was deleted; upload it again for a new job", param=field)


def _upload(file: FileRecord, field: str, store: ArtifactStore) -> Path:
    path = store.local(file.key)
    if not path.is_file():
        raise InvalidRequestError(f"file {file.id} ({file.filename}) is gone; upload it again", param=field)
    return path
