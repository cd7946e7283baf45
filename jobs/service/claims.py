"""What a worker needs to run an attempt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from jobs.database import now_ms
from jobs.records import AllocationRecord, AttemptRecord, FileRecord, JobRecord, ModelRecord
from jobs.repository import attempts, files, models
from jobs.service.unneeded import list_resumable
from jobs.specs import StoredSpec


@dataclass(frozen=True, slots=True)
class Claim:
    """An attempt that a worker has claimed.

    Attributes:
        job: The job.
        attempt: The attempt.
        spec: What the user asked for; long inline inputs are in the artifact store.
        allocation: Where this worker's node of the attempt runs.
        nodes: How many machines run the attempt together.
        rendezvous: "host:port" where node 0 waits for the others; None if there is only one.
        models: Models that the spec names, by field.
        bases: Models that named adapters were made for, under the adapter's field.
        files: Uploaded files that the spec names, by field.
        earlier_attempts: Ids of attempts that ran before and may have left something to resume from, oldest first.
    """

    job: JobRecord
    attempt: AttemptRecord
    spec: StoredSpec
    allocation: AllocationRecord
    nodes: int
    rendezvous: str | None
    models: Mapping[str, ModelRecord]
    bases: Mapping[str, ModelRecord]
    files: Mapping[str, FileRecord]
    earlier_attempts: Sequence[str]


def make_claim(
    connection: Connection, job: JobRecord, attempt: AttemptRecord, spec: StoredSpec, worker_id: str
) -> Claim:
    """Read all that belongs to an attempt which `worker_id` has just claimed."""
    now = now_ms(connection)
    named = spec.model_references()
    found = models.get_many(connection, job.project_id, named.values())
    by_field = {field: found[name] for field, name in named.items() if name in found}
    uploads = files.get_files(connection, job.project_id, spec.file_references().values(), now=now)
    tries = attempts.of_job(connection, job.id)
    allocations = next(each.allocations for each in tries if each.id == attempt.id)
    earlier = [each.id for each in tries if each.id != attempt.id and each.claimed_at is not None]
    return Claim(
        job=job,
        attempt=attempt,
        spec=spec,
        allocation=next(each for each in allocations if each.worker_id == worker_id),
        nodes=len(allocations),
        rendezvous=allocations[0].address,
        models=by_field,
        bases=_find_bases(connection, job.project_id, by_field),
        files={field: uploads[name] for field, name in spec.file_references().items() if name in uploads},
        earlier_attempts=list_resumable(connection, job.id, earlier),
    )


def _find_bases(connection: Connection, project_id: str, named: Mapping[str, ModelRecord]) -> dict[str, ModelRecord]:
    wanted = {field: model.base for field, model in named.items() if model.kind == "adapter" and model.base}
    found = models.get_many(connection, project_id, wanted.values()) if wanted else {}
    return {field: found[base] for field, base in wanted.items() if base in found}
