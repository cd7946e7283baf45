"""The data that a worker needs to run an attempt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from jobs.database import now_ms
from jobs.records import AllocationRecord, AttemptRecord, FileRecord, JobRecord, ModelRecord
from jobs.repository import attempts, files, models
from jobs.service.unneeded import list_resumable_attempts
from jobs.specs import StoredSpec


@dataclass(frozen=True, slots=True)
class Claim:
    """An attempt that a worker has claimed.

    Attributes:
        job: The job.
        attempt: The attempt.
        spec: The job's spec; long inline inputs are in the artifact store.
        allocation: The devices and memory reserved on this worker's node.
        nodes: Number of machines that run the attempt together.
        rendezvous: "host:port" at which node 0 waits for the other nodes; None if there is only one node.
        models: The models that the spec names, by field.
        bases: The base models of the adapters that the spec names, by the adapter's field.
        files: The uploaded files that the spec names, by field.
        earlier_attempts: Ids of earlier attempts that may have left resume points, oldest first.
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


def build_claim(
    connection: Connection, job: JobRecord, attempt: AttemptRecord, spec: StoredSpec, worker_id: str
) -> Claim:
    """Read all the data needed to run an attempt that `worker_id` has just claimed."""
    now = now_ms(connection)
    named = spec.list_model_references()
    found = models.get_many(connection, job.project_id, named.values())
    by_field = {field: found[name] for field, name in named.items() if name in found}
    uploads = files.get_files(connection, job.project_id, spec.list_file_references().values(), now=now)
    tries = attempts.list_for_job(connection, job.id)
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
        files={field: uploads[name] for field, name in spec.list_file_references().items() if name in uploads},
        earlier_attempts=list_resumable_attempts(connection, job.id, earlier),
    )


def _find_bases(connection: Connection, project_id: str, named: Mapping[str, ModelRecord]) -> dict[str, ModelRecord]:
    wanted = {field: model.base for field, model in named.items() if model.kind == "adapter" and model.base}
    found = models.get_many(connection, project_id, wanted.values()) if wanted else {}
    return {field: found[base] for field, base in wanted.items() if base in found}
