"""Deletion of jobs, artifacts, models and files that nothing uses."""

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import Connection

from jobs.database import now_ms
from jobs.database.journal import add_to_feed
from jobs.errors import InUseError, VersionConflictError
from jobs.records import ArtifactRecord, FileRecord
from jobs.repository import files, removal, uses
from jobs.service import files as file_service
from jobs.service import jobs as job_service
from jobs.service import models as model_service
from jobs.service.jobs import JobKey
from jobs.service.transitions import lock_job
from jobs.service.unneeded import DeletionReason, record_deletions, record_job_files
from jobs.settings import Settings
from jobs.state import JobState

MAX_LISTED_USES = 5


def delete_job(
    connection: Connection, key: JobKey, settings: Settings, *, versions: Collection[str] | None = None
) -> None:
    """Delete a finished job together with its log, artifacts and model.

    Raises:
        NotFoundError: there is no such job.
        VersionConflictError: the job's version is not one of `versions`.
        InUseError: the job is not final, or its model is used.
    """
    job = lock_job(connection, key.job_id, key.project_id)
    job_service.check_version(job, versions)
    if not job.state.is_final:
        raise InUseError(f"job {job.id} is {job.state}; cancel it first", param="job_id")
    for model in removal.lock_models_of_jobs(connection, [job.id]):
        _require_unused_model(connection, key.project_id, model.id, f"job {job.id} made")
    _erase_locked_jobs(connection, key.project_id, [job.id], settings)


def erase_jobs(
    connection: Connection,
    job_ids: Sequence[str],
    settings: Settings,
    *,
    users: Collection[JobState] = uses.UNFINISHED_STATES,
) -> list[str]:
    """Delete those of the given jobs that are final and whose models are not in use; return their ids.

    Args:
        connection: The transaction.
        job_ids: The jobs.
        settings: The settings, for the lease time.
        users: Another job in one of these states protects the models that it names.
    """
    erased: list[str] = []
    for project_id, finished in removal.lock_finished_jobs(connection, job_ids).items():
        removal.lock_models_of_jobs(connection, finished)
        blocked = find_blocked_jobs(connection, project_id, finished, users=users)
        free = [job_id for job_id in finished if job_id not in blocked]
        _erase_locked_jobs(connection, project_id, free, settings)
        erased += free
    return erased


def _erase_locked_jobs(connection: Connection, project_id: str, job_ids: Sequence[str], settings: Settings) -> None:
    now = now_ms(connection)
    removal.delete_jobs(connection, job_ids)
    record_job_files(connection, job_ids, now=now, settings=settings)
    for job_id in job_ids:
        add_to_feed(connection, project_id, job_id, "deleted", {}, now=now)


def delete_artifact(
    connection: Connection, key: JobKey, path: str, *, hashes: Collection[str] | None = None
) -> ArtifactRecord:
    """Delete one published file, and return its record.

    Raises:
        NotFoundError: there is no such job or file.
        VersionConflictError: the file's SHA-256 is not one of `hashes`.
        InUseError: the file belongs to a model, or an unfinished job uses it.
    """
    lock_job(connection, key.job_id, key.project_id)
    found = job_service.get_artifact(connection, key, path)
    _check_hash(path, found.sha256, hashes)
    _require_unused_file(connection, key.project_id, found.id)
    if model := removal.find_owning_model(connection, found):
        raise InUseError(f"{path} belongs to model {model!r}; delete the model instead", param="path")
    removal.delete_artifacts(connection, [found.id])
    record_deletions(connection, [found.key], DeletionReason.USER, now=now_ms(connection), job_id=key.job_id)
    return found


def delete_model(connection: Connection, project_id: str, name: str) -> None:
    """Delete a model. The files of a job's result are deleted too; a registered directory is only unregistered.

    Raises:
        NotFoundError: there is no such model.
        InUseError: a job or another model uses it.
    """
    removal.lock_model(connection, project_id, name)
    model = model_service.get(connection, project_id, name)
    _require_unused_model(connection, project_id, name)
    removal.delete_model(connection, project_id, name)
    if model.key is not None and model.job_id is not None:
        removal.delete_artifacts_below(connection, model.job_id, model.key)
        record_deletions(connection, [model.key], DeletionReason.USER, now=now_ms(connection), job_id=model.job_id)


def delete_file(
    connection: Connection, project_id: str, file_id: str, *, hashes: Collection[str] | None = None
) -> None:
    """Delete an uploaded file or an artifact.

    Raises:
        NotFoundError: the project has no file with this id.
        VersionConflictError: the file's SHA-256 is not one of `hashes`.
        InUseError: an unfinished job uses it, or it belongs to a model.
    """
    removal.lock_file(connection, file_id)
    found = file_service.get(connection, project_id, file_id)
    if found.job_id is not None:
        delete_artifact(connection, JobKey(project_id, found.job_id), found.filename, hashes=hashes)
        return
    _check_hash(file_id, found.sha256, hashes)
    _require_unused_file(connection, project_id, file_id)
    _erase_file(connection, found, DeletionReason.USER)


def _require_unused_file(connection: Connection, project_id: str, file_id: str) -> None:
    if users := uses.find_jobs_referencing_file(connection, project_id, file_id):
        jobs = _join_names(users)
        message = f"file {file_id} is used by {jobs}; wait until {'that job has' if len(users) == 1 else 'they have'}"
        raise InUseError(f"{message} ended, or cancel {'it' if len(users) == 1 else 'them'}", param="file_id")


def expire_file(connection: Connection, file: FileRecord) -> bool:
    """Delete an expired file; return False if an unfinished job uses it."""
    removal.lock_file(connection, file.id)
    if uses.find_jobs_referencing_file(connection, file.project_id, file.id):
        return False
    _erase_file(connection, file, DeletionReason.EXPIRED)
    return True


def find_blocked_jobs(
    connection: Connection,
    project_id: str,
    job_ids: Sequence[str],
    *,
    users: Collection[JobState] = uses.UNFINISHED_STATES,
) -> set[str]:
    """Return the given jobs whose models are still used by anything outside this deletion."""
    wanted = set(job_ids)
    made = uses.list_model_origins(connection, project_id)
    makers = {model.id: model.job_id for model in made if model.job_id is not None and model.job_id in wanted}
    if not makers:
        return set()
    named = uses.list_referenced_models(connection, project_id, users)
    blocked = {makers[use.name] for use in named if use.name in makers and use.job_id not in wanted}
    while more := {
        makers[model.base]
        for model in made
        if model.base in makers and makers[model.base] not in blocked and _is_kept(model, wanted, blocked)
    }:
        blocked |= more
    return blocked


def _check_hash(name: str, sha256: str, hashes: Collection[str] | None) -> None:
    if hashes is not None and sha256 not in hashes:
        raise VersionConflictError(f"{name} has changed: its ETag is now {sha256}; read it again", param="If-Match")


def _is_kept(model: uses.ModelOrigin, wanted: Collection[str], blocked: Collection[str]) -> bool:
    return model.job_id not in wanted or model.job_id in blocked


def _erase_file(connection: Connection, file: FileRecord, reason: DeletionReason) -> None:
    files.delete_file(connection, file.id)
    record_deletions(connection, [file.key], reason, now=now_ms(connection))


def _require_unused_model(connection: Connection, project_id: str, name: str, whose: str = "") -> None:
    jobs = [use.job_id for use in uses.find_jobs_referencing(connection, project_id, uses.MODEL_FIELDS, [name])]
    made_from = [repr(model) for model in uses.find_models_made_from(connection, project_id, name)]
    if not jobs and not made_from:
        return
    users = [f"jobs {_join_names(jobs)}"] if jobs else []
    users += [f"models {_join_names(made_from)}, which were made from it"] if made_from else []
    subject = f"model {name!r}" + (f", which {whose}," if whose else "")
    raise InUseError(f"{subject} is used by {' and '.join(users)}; delete or cancel those first", param="model")


def _join_names(names: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(names))
    shown = ", ".join(distinct[:MAX_LISTED_USES])
    more = len(distinct) - MAX_LISTED_USES
    return f"{shown} and {more} more" if more > 0 else shown
