"""Submitting jobs: many at a time in one transaction."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from jobs.database import now_ms
from jobs.errors import (
    DomainError,
    IdempotencyConflictError,
    NameTakenError,
    UnknownFileError,
    UnknownModelError,
)
from jobs.identifiers import new_id
from jobs.records import JobRecord, ModelRecord
from jobs.repository import events, files, jobs, models
from jobs.specs import AnySpec
from jobs.state import JobState


@dataclass(frozen=True, slots=True)
class Submission:
    """A validated spec of a project; `idempotency_key` makes repeating it harmless."""

    project_id: str
    spec: AnySpec
    idempotency_key: str | None = None

    def digest(self) -> str:
        """A hash by which the same request is recognised."""
        return hashlib.sha256(json.dumps(self.spec.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Submitted:
    """The job of a submission; `created` is False if the idempotency key had made it before."""

    job: JobRecord
    created: bool


def submit(connection: Connection, submissions: Sequence[Submission]) -> list[Submitted | DomainError]:
    """Record jobs with their first event, labels and the names of their results; answers in the order given.

    What is wrong with one submission is its answer and does not touch the others.

    Raises:
        NameTakenError: another process took the name of a result in this very moment.
    """
    answers: dict[int, Submitted | DomainError] = {}
    known = _replays(connection, submissions)
    _check_references(connection, submissions, answers)
    fresh: dict[str, int] = {}
    records: list[dict[str, Any]] = []
    keys: dict[tuple[str, str], str] = {}
    now = now_ms(connection)
    for index, submission in enumerate(submissions):
        key = (submission.project_id, submission.idempotency_key or "")
        if index in answers or key in known or key in keys:
            continue
        record = _row(submission, now)
        fresh[record["id"]] = index
        records.append(record)
        if submission.idempotency_key:
            keys[key] = record["id"]
    inserted = jobs.insert_new(connection, records) if records else set()
    _accompany(connection, [r for r in records if r["id"] in inserted], submissions, fresh, now)
    stored = jobs.get_many(connection, inserted)
    for job_id in inserted:
        answers[fresh[job_id]] = Submitted(stored[job_id], created=True)
    if len(answers) < len(submissions):
        known = _replays(connection, submissions)
        for index, submission in enumerate(submissions):
            if index not in answers:
                answers[index] = _replay(submission, known[submission.project_id, submission.idempotency_key or ""])
    return [answers[index] for index in range(len(submissions))]


def _row(submission: Submission, now: int) -> dict[str, Any]:
    spec = submission.spec
    return {
        "id": new_id("job"),
        "project_id": submission.project_id,
        "kind": spec.kind,
        "state": JobState.QUEUED,
        "spec": spec.model_dump(mode="json"),
        "priority": spec.priority,
        "max_attempts": spec.max_attempts,
        "idempotency_key": submission.idempotency_key,
        "request_digest": submission.digest(),
        "last_event": 1,
        "created_at": now,
    }


def _replays(connection: Connection, submissions: Sequence[Submission]) -> dict[tuple[str, str], JobRecord]:
    keys = {(s.project_id, s.idempotency_key) for s in submissions if s.idempotency_key}
    return jobs.by_idempotency_key(connection, keys) if keys else {}


def _replay(submission: Submission, job: JobRecord) -> Submitted | DomainError:
    if job.request_digest == submission.digest():
        return Submitted(job, created=False)
    return IdempotencyConflictError(
        f"this Idempotency-Key made job {job.id} from another request; use a new key for a new request",
        param="Idempotency-Key",
    )


def _check_references(
    connection: Connection, submissions: Sequence[Submission], answers: dict[int, Submitted | DomainError]
) -> None:
    """Refuse submissions that name unknown models or files, or a name for their result that is taken."""
    for project_id in {submission.project_id for submission in submissions}:
        mine = [(index, s.spec) for index, s in enumerate(submissions) if s.project_id == project_id]
        named = _names(mine)
        known_models = models.get_many(connection, project_id, named) if named else {}
        wanted = {file_id for _, spec in mine for file_id in spec.file_references().values()}
        known_files = files.get_files(connection, project_id, wanted) if wanted else {}
        taken = set(known_models)
        for index, spec in mine:
            if error := _fault(spec, known_models, set(known_files), taken):
                answers[index] = error
            elif (output := spec.output_name()) is not None:
                taken.add(output)


def _names(mine: Iterable[tuple[int, AnySpec]]) -> set[str]:
    names = {name for _, spec in mine for name in spec.model_references().values()}
    return names | {name for _, spec in mine if (name := spec.output_name())}


def _fault(
    spec: AnySpec, known_models: dict[str, ModelRecord], known_files: set[str], taken: set[str]
) -> DomainError | None:
    for field, name in spec.model_references().items():
        model = known_models.get(name)
        if model is None:
            message = f"there is no model {name!r}; `GET /v1/models` lists yours, `POST /v1/models` registers one"
            return UnknownModelError(message, param=field)
        if model.state != "ready":
            message = f"model {name!r} is still being made by job {model.job_id}; wait until that job has succeeded"
            return UnknownModelError(message, param=field)
    for field, file_id in spec.file_references().items():
        if file_id not in known_files:
            message = f"there is no file {file_id}; upload it with `POST /v1/files` first"
            return UnknownFileError(message, param=field)
    output = spec.output_name()
    if output in taken:
        return NameTakenError(f"there is a model {output!r} already; choose another name", param="output_model")
    return None


def _accompany(
    connection: Connection,
    rows: Sequence[dict[str, Any]],
    submissions: Sequence[Submission],
    index_of: dict[str, int],
    now: int,
) -> None:
    """Write what belongs to new jobs: first events, labels, and reserved names of results."""
    if not rows:
        return
    data = {"from": None, "to": JobState.QUEUED, "event": "submit"}
    events.insert_first(connection, [row["id"] for row in rows], data, now=now)
    jobs.insert_labels(
        connection,
        [
            {"project_id": row["project_id"], "key": key, "value": value, "job_id": row["id"]}
            for row in rows
            for key, value in row["spec"]["labels"].items()
        ],
    )
    for row in rows:
        spec = submissions[index_of[row["id"]]].spec
        if spec.produces_model and not models.add(connection, pending_model(row["id"], row["project_id"], spec, now)):
            raise NameTakenError(f"there is a model {spec.output_name()!r} already", param="output_model")


def pending_model(job_id: str, project_id: str, spec: AnySpec, now: int) -> ModelRecord:
    """The reservation of the name that a job's result will have."""
    return ModelRecord(
        project_id=project_id,
        id=spec.output_name() or job_id,
        kind="checkpoint",
        state="pending",
        base=spec.model,
        job_id=job_id,
        path=None,
        key=None,
        details={},
        created_at=now,
    )
