"""/v1/batches: generate jobs whose requests are the lines of an uploaded file, in the format of OpenAI's API."""

import asyncio
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from api.dependencies import Caller, CurrentCaller
from api.json_bodies import OpenAIRoute
from api.openai.batch_objects import BatchObject
from api.openai.bodies import RequestBody, Unsupported
from api.openai.extension import Extension, SpecFields
from api.openai.queries import LIST_PARAMETERS, read_query
from api.openai.submissions import WantedJob, choose_model, get_or_create_job, preview_job
from api.responses import json_response
from api.schemas.dry_runs import DryRunObject
from api.schemas.pages import Page
from api.uploads import translate_storage_errors
from jobs.errors import InvalidRequestError, NotFoundError
from jobs.identifiers import new_id
from jobs.inputs import BatchSummary, InputError, check_batch
from jobs.records import JobDetails, JobFilter
from jobs.service import jobs, openai_jobs
from jobs.service.openai_jobs import PublishedJob
from jobs.specs import GenerateSpec, OpenAIBatch, StoredGenerateSpec
from jobs.specs.fields import FileId, Metadata

router = APIRouter(prefix="/v1/batches", tags=["openai"], route_class=OpenAIRoute)

JOB_KIND = "generate"
INPUT_FILE_PURPOSE = "batch"
PARAMETER_NAMES = {"input_file": "input_file_id"}
# Fields that `baichuan` cannot set, mapped to the parameters that set them, if any.
PROTECTED_FIELDS = {
    **dict.fromkeys(("kind", "model", "prompts", "conversations", "logprobs")),
    **PARAMETER_NAMES,
}


class BatchBody(RequestBody):
    """A batch to create."""

    input_file_id: FileId
    endpoint: Literal["/v1/chat/completions", "/v1/completions"]
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: Unsupported = None
    baichuan: Extension = Field(Extension(), description="Other fields of a generate spec, such as `engine`")


@router.post("", response_model=BatchObject)
async def create(body: BatchBody, request: Request, caller: CurrentCaller) -> Response:
    """Create a batch. If the client retries the request because the response was lost, no second batch is created."""
    wanted = await _build_wanted_job(body, caller)
    if body.baichuan.dry_run:
        found = DryRunObject.from_preview(await preview_job(caller, wanted))
        return json_response(BatchObject.from_dry_run(body.input_file_id, wanted.openai, found))
    return _build_response(await get_or_create_job(caller, request, body, wanted), caller)


@router.get("", response_model=Page[BatchObject], openapi_extra=LIST_PARAMETERS)
async def list_batches(request: Request, caller: CurrentCaller) -> Response:
    """List the generate jobs of the project that were created as batches, newest first."""
    query = read_query(request)
    wanted = JobFilter(kind=JOB_KIND, from_openai=True)
    found = await caller.service.reader.run(
        lambda c: openai_jobs.list_page(c, caller.project_id, wanted, after=query.after, limit=query.limit + 1)
    )
    return json_response(
        Page[BatchObject].from_items([BatchObject.from_job(job, caller.key) for job in found], query.limit)
    )


@router.get("/{batch_id}", response_model=BatchObject)
async def get(batch_id: str, caller: CurrentCaller) -> Response:
    """Return a batch."""
    return json_response(BatchObject.from_job(await _find_batch(batch_id, caller), caller.key))


@router.post("/{batch_id}/cancel", response_model=BatchObject)
async def cancel(batch_id: str, caller: CurrentCaller) -> Response:
    """Cancel a batch; a cancelled batch has no results."""
    await _find_batch(batch_id, caller)
    settings = caller.service.settings
    changed = await caller.service.writer.run(lambda c: jobs.cancel(c, caller.job_key(batch_id), settings))
    return _build_response(changed, caller)


async def _find_batch(batch_id: str, caller: Caller) -> PublishedJob:
    try:
        found = await caller.service.reader.run(lambda c: openai_jobs.get(c, caller.job_key(batch_id), JOB_KIND))
    except NotFoundError:
        found = None
    if found is None or found.job.openai is None:
        raise NotFoundError(f"there is no batch {batch_id}; `GET /v1/batches` lists your batches", param="batch_id")
    return found


def _build_response(job: JobDetails, caller: Caller) -> Response:
    return json_response(BatchObject.from_job(PublishedJob(job, ()), caller.key))


async def _build_wanted_job(body: BatchBody, caller: Caller) -> WantedJob:
    """Return the job to create for a request body."""
    summary = await _summarize_input_file(body, caller)
    model = await choose_model(caller, summary.model, body.baichuan)
    given = {"kind": JOB_KIND, "model": model, "input_file": body.input_file_id}
    fields = SpecFields(given, PARAMETER_NAMES, PROTECTED_FIELDS)
    spec = fields.build_spec(GenerateSpec, body.baichuan)
    form = OpenAIBatch.model_validate({"endpoint": summary.endpoint, "model": summary.model})
    stored = StoredGenerateSpec(**spec.model_dump(), batch=form)
    openai: dict[str, Any] = {"endpoint": summary.endpoint, "model": summary.model, "requests": summary.requests}
    if body.metadata is not None:
        openai["metadata"] = body.metadata
    return WantedJob(new_id("job"), spec, fields, openai, stored)


async def _summarize_input_file(body: BatchBody, caller: Caller) -> BatchSummary:
    """Check the input file and summarize it.

    Raises:
        InvalidRequestError: The file is not a batch file, or is a batch file for another endpoint.
    """
    param = "input_file_id"
    file = await caller.service.reader.run(
        lambda c: openai_jobs.require_valid_file(c, caller.project_id, body.input_file_id, param)
    )
    if file.purpose != INPUT_FILE_PURPOSE:
        message = f"file {file.id} has the purpose {file.purpose!r}; upload it with the purpose {INPUT_FILE_PURPOSE!r}"
        raise InvalidRequestError(message, param=param)
    try:
        with translate_storage_errors():
            path = await asyncio.to_thread(caller.service.store.fetch_path, file.key)
            summary = await asyncio.to_thread(check_batch, path)
    except InputError as error:
        raise InvalidRequestError(f"file {file.id} cannot be used: {error}", param=param) from None
    if summary.endpoint != body.endpoint:
        message = f"is {body.endpoint}, but the requests in file {file.id} have the url {summary.endpoint}"
        raise InvalidRequestError(message, param="endpoint")
    return summary
