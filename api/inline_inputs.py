"""Submits jobs; prompts or conversations that are too long for a row are first written to the artifact store."""

import asyncio

from api.dependencies import Service
from api.uploads import store_bytes
from jobs.artifacts import input_key
from jobs.errors import OutcomeUnknownError
from jobs.identifiers import new_id
from jobs.records import KeyRecord
from jobs.service import submission
from jobs.service.submission import Submission, SubmittedJob
from jobs.service.unneeded import discard_input, reserve_input
from jobs.specs import AnySpec, GenerateSpec, StoredGenerateSpec, has_long_input, split_off_input


async def submit_job(service: Service, key: KeyRecord, spec: AnySpec, idempotency_key: str | None) -> SubmittedJob:
    """Submit a job on behalf of an API key; a long input is first written to the artifact store.

    Raises:
        DomainError: the job is not accepted.
    """
    if isinstance(spec, GenerateSpec) and has_long_input(spec):
        return await asyncio.shield(_submit_with_input(service, key, spec, idempotency_key))
    wanted = Submission(key.project_id, spec, idempotency_key, key_id=key.id, submitter=key.name)
    return await service.writer.call(submission.submit, wanted)


async def _submit_with_input(
    service: Service, key: KeyRecord, spec: GenerateSpec, idempotency_key: str | None
) -> SubmittedJob:
    """Write the input before the job's row, so that no job lacks its input; the leader deletes inputs without a job."""
    job_id = new_id("job")
    await service.writer.run(lambda connection: reserve_input(connection, job_id))
    try:
        stored_spec = await asyncio.to_thread(_store_input, service, spec, job_id)
        wanted = await asyncio.to_thread(
            Submission, key.project_id, spec, idempotency_key, stored_spec, key.id, key.name, job_id
        )
        submitted = await service.writer.call(submission.submit, wanted)
    except OutcomeUnknownError:
        raise  # keep the input, because the job may have been created
    except Exception:
        await service.writer.run(lambda connection: discard_input(connection, job_id))
        raise
    if not submitted.created:  # a replay: the original request already stored the same input
        await service.writer.run(lambda connection: discard_input(connection, job_id))
    return submitted


def _store_input(service: Service, spec: GenerateSpec, job_id: str) -> StoredGenerateSpec:
    separated = split_off_input(spec)
    store_bytes(service.store, service.settings, input_key(job_id), separated.content)
    return separated.spec
