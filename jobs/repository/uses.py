"""Queries across tables that find where a model, a file or a key in the artifact store is used."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from jobs.database.tables import Artifact, Attempt, File, Job, Model
from jobs.repository.attempts import OPEN_STATES
from jobs.state import JobState

# Spec fields that name models and files; a test compares them with the specs.
MODEL_FIELDS = ("model", "adapter", "compare_with")
FILE_FIELDS = ("training_file", "validation_file", "input_file", "quality_text_file", "calibration_file", "data_file")
FILE_LIST_FIELDS = ("training_files",)  # lists of objects with the key "file"
FINAL_STATES = tuple(state for state in JobState if state.is_final)
UNFINISHED_STATES = tuple(state for state in JobState if not state.is_final)


@dataclass(frozen=True, slots=True)
class SpecReference:
    """A reference from a job to a model or file: the job's id and the name in its spec."""

    job_id: str
    name: str


@dataclass(frozen=True, slots=True)
class ModelOrigin:
    """A model, the model that it was made from, and the job that made it."""

    id: str
    base: str | None
    job_id: str | None


def find_jobs_referencing(
    connection: Connection,
    project_id: str,
    fields: Sequence[str],
    names: Collection[str],
    *,
    states: Collection[JobState] = UNFINISHED_STATES,
) -> list[SpecReference]:
    """Return the jobs in these states whose specs name one of `names` in one of `fields`."""
    found = []
    for field in fields:
        named = Job.spec[field].as_string()
        query = sa.select(Job.id, named).where(
            Job.project_id == project_id, Job.state.in_(list(states)), named.in_(list(names))
        )
        found += [SpecReference(*row) for row in connection.execute(query.order_by(Job.id))]
    return found


def find_jobs_referencing_file(connection: Connection, project_id: str, file_id: str) -> list[str]:
    """Return the ids of unfinished jobs whose specs name a file."""
    found = [use.job_id for use in find_jobs_referencing(connection, project_id, FILE_FIELDS, [file_id])]
    for field in FILE_LIST_FIELDS:
        # Searching the list as text is enough: nothing else in such a list can contain the id of a file.
        named = sa.cast(Job.spec[field], sa.Text).contains(file_id, autoescape=True)
        query = sa.select(Job.id).where(Job.project_id == project_id, Job.state.in_(UNFINISHED_STATES), named)
        found += connection.execute(query.order_by(Job.id)).scalars()
    return found


def list_referenced_models(
    connection: Connection, project_id: str, states: Collection[JobState]
) -> list[SpecReference]:
    """Return all models that jobs in these states name."""
    found = []
    for field in MODEL_FIELDS:
        named = Job.spec[field].as_string()
        query = sa.select(Job.id, named).where(
            Job.project_id == project_id, Job.state.in_(list(states)), named.is_not(None)
        )
        found += [SpecReference(*row) for row in connection.execute(query)]
    return found


def list_model_origins(connection: Connection, project_id: str) -> list[ModelOrigin]:
    """Return all models of a project, with their bases and the jobs that made them."""
    rows = connection.execute(sa.select(Model.id, Model.base, Model.job_id).where(Model.project_id == project_id))
    return [ModelOrigin(*row) for row in rows]


def find_models_made_from(connection: Connection, project_id: str, name: str) -> list[str]:
    """Return the models whose base is `name`, including those still being made."""
    query = sa.select(Model.id).where(Model.project_id == project_id, Model.base == name)
    return list(connection.execute(query.order_by(Model.id)).scalars())


def job_exists(connection: Connection, job_id: str) -> bool:
    """Whether a job with this id exists."""
    return connection.execute(sa.select(Job.id).where(Job.id == job_id)).first() is not None


def file_exists(connection: Connection, file_id: str) -> bool:
    """Whether an uploaded file with this id exists."""
    return connection.execute(sa.select(File.id).where(File.id == file_id)).first() is not None


def is_published(connection: Connection, job_id: str, key: str) -> bool:
    """Whether an artifact or a model of the job is at this key in the store, or below it."""
    for table in (Artifact, Model):
        below = sa.func.substr(table.key, 1, len(key) + 1) == f"{key}/"
        query = sa.select(table.id).where(table.job_id == job_id, sa.or_(table.key == key, below))
        if connection.execute(query.limit(1)).first() is not None:
            return True
    return False


def list_open_attempts(connection: Connection, job_id: str) -> list[str]:
    """Return the ids of the attempts at a job that have not ended."""
    query = sa.select(Attempt.id).where(Attempt.job_id == job_id, Attempt.state.in_(OPEN_STATES))
    return list(connection.execute(query).scalars())


def get_claimed_attempt_states(connection: Connection, job_id: str) -> dict[str, str]:
    """Return the states of all claimed attempts at a job, by id."""
    query = sa.select(Attempt.id, Attempt.state).where(Attempt.job_id == job_id, Attempt.claimed_at.is_not(None))
    return {row.id: row.state for row in connection.execute(query.order_by(Attempt.number))}


def is_workspace_needed(connection: Connection, job_id: str, *, ended_since: int) -> bool:
    """Whether a worker must keep the files of attempts at a job, because the job may still be resumed."""
    state = connection.execute(sa.select(Job.state, Job.finished_at).where(Job.id == job_id)).first()
    if state is None:
        return False
    if state.state in (JobState.FAILED, JobState.CANCELLED):
        return bool((state.finished_at or 0) >= ended_since)
    return state.state in UNFINISHED_STATES
