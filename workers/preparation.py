"""Prepares a spec's inputs in the runner: checks their paths and the disk space for the result."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from baichuan_core.progress import ProgressCallback
from jobs.artifacts import ArtifactStore, Workspace, input_key
from jobs.errors import InsufficientStorageError, InvalidRequestError
from jobs.models.directories import resolve_allowed_path
from jobs.records import FileRecord, ModelRecord
from jobs.scheduling import LoadedModel
from jobs.service.claims import Claim
from jobs.service.references import require_files, resolve_models
from jobs.specs import AnySpec, InlineInput, StoredGenerateSpec
from workers.handlers.contract import MODEL_FOLDER, Handler, HandlerContext, HandlerPlacement
from workers.resume_points import ResumePoints

if TYPE_CHECKING:
    from baichuan_core.checkpoint import ModelSource


def prepare_context(
    claim: Claim, store: ArtifactStore, model_roots: Sequence[Path], report: ProgressCallback
) -> HandlerContext:
    """Return the context with everything that a handler needs.

    Raises:
        InvalidRequestError: A model or file no longer exists or cannot be used, or a path is no longer allowed.
    """
    # The models may have changed since the job was submitted.
    found = resolve_models(claim.spec, claim.models, claim.bases)
    require_files(claim.spec, {file.id: file for file in claim.files.values()})
    workspace = Workspace(claim.job.id, claim.attempt.id)
    earlier = [Workspace(claim.job.id, attempt_id) for attempt_id in reversed(claim.earlier_attempts)]
    return HandlerContext(
        models={field: locate_model(model, field, store, model_roots) for field, model in found.items()},
        files=_find_files(claim, store),
        output=store.open_workspace(workspace.output),
        checkpoints=store.open_workspace(workspace.checkpoints),
        earlier_checkpoints=[store.open_workspace(each.checkpoints) for each in earlier],
        report=report,
        resume_points=ResumePoints(store, workspace, claim.earlier_attempts),
        placement=_build_placement(claim),
    )


def identify_loaded_model(source: "ModelSource", claim: Claim, context: HandlerContext) -> LoadedModel | None:
    """Return the model that was loaded from `source`: one that the spec names, or the one that the job has produced."""
    found = resolve_models(claim.spec, claim.models, claim.bases)
    if source.checkpoint == context.model_output:
        name = claim.job.output_model or claim.job.id
        key = f"{Workspace(claim.job.id, claim.attempt.id).output}/{MODEL_FOLDER}"
        return LoadedModel(claim.job.project_id, name, key, source.dtype)
    adapter = None if source.adapter is None else found["adapter"]
    named = (field for field in found if field != "adapter" and context.models[field] == source.checkpoint)
    field = next(named, None)
    return None if field is None else LoadedModel.from_records(found[field], adapter, source.dtype)


def _build_placement(claim: Claim) -> HandlerPlacement:
    devices = max(1, len(claim.allocation.devices))
    if claim.nodes == 1:
        return HandlerPlacement(devices)
    if claim.rendezvous is None:
        raise RuntimeError("the first node has not reported its address")
    host, _, port = claim.rendezvous.rpartition(":")
    return HandlerPlacement(devices, claim.nodes, claim.allocation.node, host, int(port))


def locate_model(model: ModelRecord, field: str, store: ArtifactStore, model_roots: Sequence[Path]) -> Path:
    """Return the directory of a model; registered ones are checked again, because roots and links may have changed.

    Raises:
        InvalidRequestError: The directory no longer exists.
        PathNotAllowedError: The directory is outside the allowed roots.
    """
    if model.path is not None:
        if not Path(model.path).is_dir():
            message = f"directory {model.path} of model {model.id!r} no longer exists; restore it or register it again"
            raise InvalidRequestError(message, param=field)
        return resolve_allowed_path(model.path, model_roots)
    folder = store.fetch_path(model.key or "")
    if not folder.is_dir():
        message = f"the files of model {model.id!r} are no longer in the artifact store; run job {model.job_id} again"
        raise InvalidRequestError(message, param=field)
    return folder


def require_disk_space(spec: AnySpec, handler: Handler, context: HandlerContext, store: ArtifactStore) -> None:
    """Refuse a job at once if its result would not fit on the disk.

    Raises:
        InsufficientStorageError: The store has too little space; the message gives the bytes that are needed and free.
    """
    folder = context.models.get("model")
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) if folder else 0
    needed = handler.estimate_output_bytes(spec, size) + context.reserve_bytes
    free = store.free_bytes()
    if free < needed:
        message = f"this job needs about {needed} bytes of disk, but {free} are free; delete what is no longer needed"
        raise InsufficientStorageError(message, param="model" if folder else None)


def _find_files(claim: Claim, store: ArtifactStore) -> dict[str, Path]:
    files = {field: _find_upload(file, field, store) for field, file in claim.files.items()}
    spec = claim.spec
    if isinstance(spec, StoredGenerateSpec) and spec.inline_input is not None:
        files["inline_input"] = _find_inline_input(claim.job.id, spec.inline_input, store)
    return files


def _find_inline_input(job_id: str, described: InlineInput, store: ArtifactStore) -> Path:
    try:
        path = store.fetch_path(input_key(job_id))
        intact = hashlib.sha256(path.read_bytes()).hexdigest() == described.sha256
    except FileNotFoundError:
        message = f"the {described.field} of job {job_id} are no longer stored; submit them in a new job"
        raise InvalidRequestError(message, param=described.field) from None
    if not intact:
        message = f"the {described.field} of job {job_id} were changed in the artifact store; submit them in a new job"
        raise InvalidRequestError(message, param=described.field)
    return path


def _find_upload(file: FileRecord, field: str, store: ArtifactStore) -> Path:
    path = store.fetch_path(file.key)
    if not path.is_file():
        raise InvalidRequestError(f"file {file.id} ({file.filename}) no longer exists; upload it again", param=field)
    return path
