"""Submission of jobs, many at a time in one transaction."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any

from sqlalchemy import Connection

from jobs.database import now_ms
from jobs.database.journal import add_usage
from jobs.errors import DomainError, IdempotencyConflictError, NameTakenError
from jobs.identifiers import new_id
from jobs.records import FileRecord, JobDetails, Json, ModelRecord
from jobs.repository import events, files, jobs, models, search
from jobs.scheduling import Requirement
from jobs.service.pool import read_known_machines
from jobs.service.references import require_files, resolve_models
from jobs.service.requirements import choose_requirement
from jobs.specs import AnySpec, StoredSpec
from jobs.specs.searchable import build_searchable_fields
from jobs.state import JobState


@dataclass(frozen=True, slots=True)
class Submission:
    """A validated spec, submitted to a project; `idempotency_key` makes it safe to retry the request.

    The job's id is chosen here, not on insertion, so submitting the same object again finds the job it created.

    Attributes:
        key_id: The API key of the request.
        submitter: That key's name.
        stored_spec: The spec that the row stores, if it is not `spec` itself.
        openai: Values from a client of OpenAI's API that the spec has no field for.
        request: The client's request, if it is not the spec.
        request_digest: Hash of only the fields that the client set, because other fields and defaults may change.
    """

    project_id: str
    spec: AnySpec
    idempotency_key: str | None = None
    stored_spec: StoredSpec | None = None
    key_id: str | None = None
    submitter: str = ""
    job_id: str = dataclass_field(default_factory=lambda: new_id("job"))
    openai: Json | None = None
    request: Json | None = None
    request_digest: str = dataclass_field(init=False)

    def __post_init__(self) -> None:
        sent = self.spec.model_dump(mode="json", exclude_unset=True) if self.request is None else self.request
        digest = hashlib.sha256(json.dumps(sent, sort_keys=True).encode()).hexdigest()
        object.__setattr__(self, "request_digest", digest)


@dataclass(frozen=True, slots=True)
class SubmittedJob:
    """The job for a submission; `created` is False if an earlier request with the same idempotency key created it."""

    job: JobDetails
    created: bool


SubmissionResult = SubmittedJob | DomainError


def submit(connection: Connection, submissions: Sequence[Submission]) -> list[SubmissionResult]:
    """Record jobs with their first events, labels and result names; return one result per submission, in order.

    An error in one submission is returned as its result and does not affect the others. Idempotency keys are looked up
    before any other check, which a repeated request might fail: the name of its result is taken by the first request,
    and its input file may have been deleted since.

    Raises:
        NameTakenError: another process took the name of a result at the same moment.
    """
    answers: dict[int, SubmissionResult] = {}
    while waiting := {index: each for index, each in enumerate(submissions) if index not in answers}:
        answers |= _submit_one_per_key(connection, waiting)
    return [answers[index] for index in range(len(submissions))]


def _submit_one_per_key(connection: Connection, waiting: Mapping[int, Submission]) -> dict[int, SubmissionResult]:
    """Submit the first new request with each idempotency key; return its result and those of repeated requests."""
    answers = _find_replays(connection, waiting)
    first = _choose_first_per_key({index: each for index, each in waiting.items() if index not in answers})
    refused, required = check_submissions(connection, first)
    # A submission may have been refused only because another process has just accepted the same request and reserved
    # the name of its result, or because it was committed before and only the database's reply was lost.
    refused_submissions = {index: first[index] for index in refused}
    answers |= (
        refused | _find_stored_results(connection, refused_submissions) | _find_replays(connection, refused_submissions)
    )
    return answers | _record_jobs(connection, {index: first[index] for index in required}, required)


def _choose_first_per_key(submissions: Mapping[int, Submission]) -> dict[int, Submission]:
    chosen: dict[object, int] = {}
    for index, each in submissions.items():
        chosen.setdefault((each.project_id, each.idempotency_key) if each.idempotency_key else index, index)
    return {index: submissions[index] for index in chosen.values()}


def _record_jobs(
    connection: Connection, submissions: Mapping[int, Submission], required: Mapping[int, Requirement]
) -> dict[int, SubmissionResult]:
    """Insert jobs and their related rows; skip a job if another process used its idempotency key at the same moment.

    If the same submission inserted the job before, the result is the same as for a new job.
    """
    if not submissions:
        return {}
    now = now_ms(connection)
    rows = {index: _build_job_row(each, required[index], now) for index, each in submissions.items()}
    inserted = jobs.insert_new(connection, list(rows.values()))
    made = {index: row for index, row in rows.items() if row["id"] in inserted}
    _insert_related_rows(connection, [(row, submissions[index].spec) for index, row in made.items()], now)
    return _find_stored_results(connection, submissions)


def _find_stored_results(connection: Connection, submissions: Mapping[int, Submission]) -> dict[int, SubmissionResult]:
    """Return the results of the submissions whose jobs are already stored."""
    if not submissions:
        return {}
    stored = jobs.get_details(connection, [each.job_id for each in submissions.values()])
    found = {index: each.job_id for index, each in submissions.items() if each.job_id in stored}
    return {index: SubmittedJob(stored[job_id], created=True) for index, job_id in found.items()}


def _build_job_row(submission: Submission, requirement: Requirement, now: int) -> dict[str, Any]:
    spec = submission.spec
    return {
        "id": submission.job_id,
        "project_id": submission.project_id,
        "key_id": submission.key_id,
        "submitter": submission.submitter,
        "kind": spec.kind,
        "state": JobState.QUEUED,
        "spec": (submission.stored_spec or spec).model_dump(mode="json"),
        "source_model": spec.source,
        "output_model": spec.output_name(),
        "labels": spec.labels,
        "requirement": requirement.to_row(),
        "priority": spec.priority,
        "max_attempts": spec.max_attempts,
        "idempotency_key": submission.idempotency_key,
        "request_digest": submission.request_digest,
        "openai": submission.openai,
        "last_event": 1,
        "created_at": now,
    }


def _find_replays(connection: Connection, submissions: Mapping[int, Submission]) -> dict[int, SubmissionResult]:
    """Return the results of the submissions whose idempotency keys belong to earlier jobs."""
    keyed = {i: (s.project_id, s.idempotency_key) for i, s in submissions.items() if s.idempotency_key}
    known = jobs.get_by_idempotency_keys(connection, set(keyed.values())) if keyed else {}
    return {index: _resolve_replay(submissions[index], known[key]) for index, key in keyed.items() if key in known}


def _resolve_replay(submission: Submission, job: JobDetails) -> SubmissionResult:
    if job.request_digest == submission.request_digest:
        return SubmittedJob(job, created=job.id == submission.job_id)
    return IdempotencyConflictError(
        f"this Idempotency-Key was already used for a different request (job {job.id}); use a new key",
        param="Idempotency-Key",
    )


def check_submissions(
    connection: Connection, submissions: Mapping[int, Submission]
) -> tuple[dict[int, SubmissionResult], dict[int, Requirement]]:
    """Return the errors of submissions that cannot be accepted, and the requirements of the others."""
    refused: dict[int, SubmissionResult] = {}
    required: dict[int, Requirement] = {}
    machines = read_known_machines(connection) if submissions else []
    for project_id in {submission.project_id for submission in submissions.values()}:
        mine = [(index, s.spec) for index, s in submissions.items() if s.project_id == project_id]
        named = _collect_model_names(mine)
        known_models = models.get_many(connection, project_id, named, keep=True) if named else {}
        bases = _find_bases(connection, project_id, known_models)
        wanted = {file_id for _, spec in mine for file_id in spec.list_file_references().values()}
        now = now_ms(connection)
        known_files = files.get_files(connection, project_id, wanted, now=now, keep=True) if wanted else {}
        taken = set(known_models)
        for index, spec in mine:
            if error := _find_spec_error(spec, known_models, bases, known_files, taken):
                refused[index] = error
                continue
            used = {field: known_models[name] for field, name in spec.list_model_references().items()}
            made_for = {field: bases[model.base] for field, model in used.items() if model.base in bases}
            found = choose_requirement(spec, used, made_for, machines)
            if isinstance(found, DomainError):
                refused[index] = found
                continue
            required[index] = found
            if (output := spec.output_name()) is not None:
                taken.add(output)
    return refused, required


def _find_bases(connection: Connection, project_id: str, named: Mapping[str, ModelRecord]) -> dict[str, ModelRecord]:
    """Return the base models of the adapters among these models, by id."""
    wanted = {model.base for model in named.values() if model.kind == "adapter" and model.base}
    return models.get_many(connection, project_id, wanted) if wanted else {}


def _collect_model_names(mine: Iterable[tuple[int, AnySpec]]) -> set[str]:
    names = {name for _, spec in mine for name in spec.list_model_references().values()}
    return names | {name for _, spec in mine if (name := spec.output_name())}


def _find_spec_error(
    spec: AnySpec,
    known_models: Mapping[str, ModelRecord],
    bases: Mapping[str, ModelRecord],
    known_files: Mapping[str, FileRecord],
    taken: set[str],
) -> DomainError | None:
    named = {field: known_models[name] for field, name in spec.list_model_references().items() if name in known_models}
    made_for = {field: bases[model.base] for field, model in named.items() if model.base and model.base in bases}
    try:
        resolve_models(spec, named, made_for)
        require_files(spec, known_files)
    except DomainError as error:
        return error
    output = spec.output_name()
    if output in taken:
        return NameTakenError(f"model {output!r} already exists; choose another name", param="output_model")
    return None


def _insert_related_rows(connection: Connection, made: Sequence[tuple[dict[str, Any], AnySpec]], now: int) -> None:
    """Insert the related rows of new jobs: first events, search rows, usage, labels, and reserved names of results."""
    if not made:
        return
    data = {"from": None, "to": JobState.QUEUED, "event": "submit"}
    events.insert_first(connection, [row for row, _ in made], data)
    search.insert(connection, [_build_search_row(row) for row, _ in made])
    for (project_id, key_id), count in Counter((row["project_id"], row["key_id"]) for row, _ in made).items():
        add_usage(connection, project_id, key_id, now=now, jobs=count)
    jobs.insert_labels(
        connection,
        [
            {"project_id": row["project_id"], "key": key, "value": value, "job_id": row["id"]}
            for row, spec in made
            for key, value in spec.labels.items()
        ],
    )
    for row, spec in made:
        if spec.produces_model and not models.add(
            connection, make_pending_model(row["id"], row["project_id"], spec, now)
        ):
            message = f"model {spec.output_name()!r} already exists; choose another name"
            raise NameTakenError(message, param="output_model")


def _build_search_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `job_search` row of a new job."""
    found = {name: row[name] for name in ("project_id", "submitter", "created_at")}
    return {**found, "job_id": row["id"], "fields": build_searchable_fields(row["spec"]), "error": None}


def make_pending_model(job_id: str, project_id: str, spec: AnySpec, now: int) -> ModelRecord:
    """Return the pending model that reserves the name of a job's result."""
    return ModelRecord(
        project_id=project_id,
        id=spec.output_name() or job_id,
        kind="checkpoint",
        state="pending",
        base=spec.list_model_references().get("model"),
        job_id=job_id,
        path=None,
        key=None,
        details={},
        created_at=now,
    )
