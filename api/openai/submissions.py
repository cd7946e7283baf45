"""Creates only one job per request to OpenAI's API, even if the client loses the response and retries the request."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from api.dependencies import Caller
from api.lost_answers import read_retry_history
from api.openai.bodies import RequestBody
from api.openai.extension import Extension, SpecFields
from jobs.errors import DomainError, InvalidRequestError
from jobs.records import JobDetails
from jobs.service import openai_jobs, submission
from jobs.service.previews import JobPreview, preview_submission
from jobs.service.submission import Submission
from jobs.specs import AnySpec, StoredSpec

MAX_IDEMPOTENCY_KEY_CHARACTERS = 255


@dataclass(frozen=True, slots=True)
class WantedJob:
    """The job that a request asks for.

    Attributes:
        job_id: Id of the job if it is created.
        spec: The job's spec.
        fields: How the request sets the fields of the spec.
        openai: Values of the request for which the spec has no field.
        stored_spec: The spec to store in the row, if different from `spec`.
    """

    job_id: str
    spec: AnySpec
    fields: SpecFields
    openai: Mapping[str, Any]
    stored_spec: StoredSpec | None = None


async def get_or_create_job(caller: Caller, request: Request, body: RequestBody, wanted: WantedJob) -> JobDetails:
    """Create the job, or return the one that an earlier request with the same content created.

    Raises:
        DomainError: the job is not accepted; the error names the parameter at fault.
    """
    key = _read_idempotency_key(request)
    sent = body.model_dump(mode="json", exclude_unset=True)
    new = Submission(
        project_id=caller.project_id,
        spec=wanted.spec,
        idempotency_key=key,
        stored_spec=wanted.stored_spec,
        key_id=caller.key.id,
        submitter=caller.key.name,
        job_id=wanted.job_id,
        openai=wanted.openai,
        request={"body": sent} if key else {"body": sent, "key": caller.key.id},
    )
    tries = read_retry_history(request)
    if tries.count and key is None:
        count, within = tries.count, tries.within_seconds
        found = await caller.service.writer.run(
            lambda c: openai_jobs.claim_retried_job(c, new, count=count, within_seconds=within)
        )
        if found is not None:
            return found
    try:
        return (await caller.service.writer.call(submission.submit, new)).job
    except DomainError as error:
        raise wanted.fields.rename_param(error, type(wanted.spec)) from None


async def preview_job(caller: Caller, wanted: WantedJob) -> JobPreview:
    """Return what the job would require.

    Raises:
        DomainError: the job would not be accepted.
    """
    new = Submission(caller.project_id, wanted.spec, job_id=wanted.job_id)
    try:
        return await caller.service.writer.run(lambda c: preview_submission(c, new))
    except DomainError as error:
        raise wanted.fields.rename_param(error, type(wanted.spec)) from None


async def choose_model(caller: Caller, model: str, extension: Extension) -> str:
    """Return the model to use: the named model, or its quantized version if the extension requests one.

    Raises:
        InvalidRequestError: there is no such version.
    """
    if extension.quantization is None:
        return model
    wanted, param = extension.quantization, "baichuan.quantization"
    return await caller.service.reader.run(
        lambda c: openai_jobs.find_quantized_model(c, caller.project_id, model, wanted, param)
    )


def _read_idempotency_key(request: Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and (
        not 0 < len(key) <= MAX_IDEMPOTENCY_KEY_CHARACTERS or not key.isascii() or not key.isprintable()
    ):
        message = f"must have 1 to {MAX_IDEMPOTENCY_KEY_CHARACTERS} printable ASCII characters"
        raise InvalidRequestError(message, param="Idempotency-Key")
    return key
