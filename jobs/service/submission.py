"""Submitting jobs: many at a time in one transaction."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from jobs.database import now_ms
from jobs.errors import (
    DomainError,
    IdempotencyConflictError,
    NameTakenError,
)
from jobs.identifiers import new_id
from jobs.records import JobRecord, ModelRecord
from jobs.repository import events, files, jobs, models
from jobs.service.references import require_files, resolve_models
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


Answer = Submitted | DomainError


def submit(connection: Connection, submissions: Sequence[Submission]) -> list[Answer]:
    """Record jobs with their first event, labels and the names of their results; answers in the order given.

    What is wrong with one submission is its answer and does not touch the others. A repeated idempotency key is looked
    up before anything else is checked: the first request has taken the name of the result, and its file may be gone.

    Raises:
        NameTakenError: another process took the name of a result in this very moment.
    """
    answers: dict[int, Answer] = {}
    while waiting := {index: each for index, each in enumerate(submissions) if index not in answers}:
        answers |= _answer_some(connection, waiting)
    return [answers[index] for index in range(len(submissions))]


def _answer_some(connection: Connection, waiting: Mapping[int, Submission]) -> dict[int, Answer]:
    """Answer repeated requests, and the first new request with each idempotency key."""
    answers = _replays(connection, waiting)
    first = _first_of_each_key({index: each for index, each in waiting.items() if index not in answers})
    refused = _refusals(connection, first)
    # Another process may have accepted the same request meanwhile, and with it taken the name of the result.
    answers |= refused | _replays(connection, {index: first[index] for index in refused})
    return answers | _record(connection, {index: each for index, each in first.items() if index not in refused})


def _first_of_each_key(submissions: Mapping[int, Submission]) -> dict[int, Submission]:
    chosen: dict[object, int] = {}
    for index, each in submissions.items():
        chosen.setdefault((each.project_id, each.idempotency_key) if each.idempotency_key else index, index)
    return {index: submissions[index] for index in chosen.values()}


def _record(connection: Connection, submissions: Mapping[int, Submission]) -> dict[int, Answer]:
    """Insert jobs with all that belongs to them; one whose key another process used this moment is left out."""
    if not submissions:
        return {}
    now = now_ms(connection)
    rows = {index: _row(each, now) for index, each in submissions.items()}
    inserted = jobs.insert_new(connection, list(rows.values()))
    made = {index: row for index, row in rows.items() if row["id"] in inserted}
    _accompany(connection, [(row, submissions[index].spec) for index, row in made.items()], now)
    stored = jobs.get_many(connection, inserted)
    return {index: Submitted(stored[row["id"]], created=True) for index, row in made.items()}


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


def _replays(connection: Connection, submissions: Mapping[int, Submission]) -> dict[int, Answer]:
    """Answers of the submissions whose idempotency key has made a job before."""
    keyed = {i: (s.project_id, s.idempotency_key) for i, s in submissions.items() if s.idempotency_key}
    known = jobs.by_idempotency_key(connection, set(keyed.values())) if keyed else {}
    return {index: _replay(submissions[index], known[key]) for index, key in keyed.items() if key in known}


def _replay(submission: Submission, job: JobRecord) -> Answer:
    if job.request_digest == submission.digest():
        return Submitted(job, created=False)
    return IdempotencyConflictError(
        f"this Idempotency-Key made job {job.id} from another request; use a new key for a new request",
        param="Idempotency-Key",
    )


def _refusals(connection: Connection, submissions: Mapping[int, Submission]) -> dict[int, Answer]:
    """Errors of submissions that name unknown models or files, or a name for their result that is taken."""
    refused: dict[int, Answer] = {}
    for project_id in {submission.project_id for submission in submissions.values()}:
        mine = [(index, s.spec) for index, s in submissions.items() if s.project_id == project_id]
        named = _names(mine)
        known_models = models.get_many(connection, project_id, named) if named else {}
        bases = _find_bases(connection, project_id, known_models)
        wanted = {file_id for _, spec in mine for file_id in spec.file_references().values()}
        known_files = files.get_files(connection, project_id, wanted) if wanted else {}
        taken = set(known_models)
        for index, spec in mine:
            if error := _fault(spec, known_models, bases, set(known_files), taken):
                refused[index] = error
            elif (output := spec.output_name()) is not None:
                taken.add(output)
    return refused


def _names(mine: Iterable[tuple[int, AnySpec]]) -> set[str]:
    names = {name for _, spec in mine for name in spec.model_references().values()}
    return names | {name for _, spec in mine if (name := spec.output_name())}


def _find_bases(connection: Connection, project_id: str, known: Mapping[str, ModelRecord]) -> dict[str, ModelRecord]:
    """Find the bases of the adapters among these models, by their ids."""
    wanted = {model.base for model in known.values() if model.kind == "adapter" and model.base is not None}
    return models.get_many(connection, project_id, wanted) if wanted else {}


def _fault(
    spec: AnySpec,
    known_models: Mapping[str, ModelRecord],
    bases: Mapping[str, ModelRecord],
    known_files: set[str],
    taken: set[str],
) -> DomainError | None:
    named = {field: known_models[name] for field, name in spec.model_references().items() if name in known_models}
    made_for = {field: bases[model.base] for field, model in named.items() if model.base and model.base in bases}
    try:
        resolve_models(spec, named, made_for)
        require_files(spec, known_files)
    except DomainError as error:
        return error
    output = spec.output_name()
    if output in taken:
        return NameTakenError(f"there is a model {output!r} already; choose another name", param="output_model")
    return None


def _accompany(connection: Connection, made: Sequence[tuple[dict[str, Any], AnySpec]], now: int) -> None:
    """Write what belongs to new jobs: first events, labels, and reserved names of results."""
    if not made:
        return
    data = {"from": None, "to": JobState.QUEUED, "event": "submit"}
    events.insert_first(connection, [row["id"] for row, _ in made], data, now=now)
    jobs.insert_labels(
        connection,
        [
            {"project_id": row["project_id"], "key": key, "value": value, "job_id": row["id"]}
            for row, spec in made
            for key, value in spec.labels.items()
        ],
    )
    for row, spec in made:
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
