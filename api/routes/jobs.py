"""/v1/jobs: submitting, showing, cancelling, pausing, resuming and retrying jobs."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Request, Response

from api.conditions import matches_if_none_match, parse_if_match, satisfies_if_match
from api.dependencies import Caller, CurrentCaller, IfMatch
from api.inline_inputs import submit_job
from api.json_bodies import JsonRoute
from api.responses import FILE_RESPONSES, create_precondition_failed_response, file_response, json_response
from api.schemas.bulk import JobCounts
from api.schemas.dry_runs import DryRunObject
from api.schemas.jobs import AttemptObject, JobObject, JobSummary
from api.schemas.pages import Page
from api.schemas.requests import JobQuery, JobSelection, PageQuery
from jobs.artifacts import input_key
from jobs.errors import NotFoundError, UnknownCursorError
from jobs.records import JobDetails
from jobs.service import jobs
from jobs.service.previews import preview_submission
from jobs.service.submission import Submission
from jobs.specs import AnySpec

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=JsonRoute)

SPEC_EXAMPLES = {
    "generate": {
        "summary": "Complete prompts",
        "value": {"kind": "generate", "model": "baichuan2-7b-chat", "prompts": ["你好"], "max_new_tokens": 32},
    },
    "quantize": {
        "summary": "Write an NF4 checkpoint",
        "value": {"kind": "quantize", "model": "baichuan2-7b-chat", "method": "nf4", "output_model": "chat-nf4"},
    },
}
Spec = Annotated[AnySpec, Body(openapi_examples=SPEC_EXAMPLES)]
IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=255, pattern=r"^[\x20-\x7e]+$", description="Makes it safe to retry the request"),
]

DryRun = Annotated[bool, Query(description="Create no job; return what it would require and its place in the queue")]
REPLAY_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "model": JobObject | DryRunObject,
        "description": "The job that an earlier request with this Idempotency-Key created, or the result of a dry run",
    }
}


@router.post("", status_code=202, response_model=JobObject, responses=REPLAY_RESPONSE)
async def submit(
    spec: Spec, caller: CurrentCaller, idempotency_key: IdempotencyKey = None, *, dry_run: DryRun = False
) -> Response:
    """Submit a job. A 202 response means that the job is stored in the database, even if Redis is down.

    If an earlier request with the same Idempotency-Key and spec created a job, the response is 200 with that job. Long
    prompts and conversations are stored as a file: the spec then describes them in `inline_input`, and
    `GET /v1/jobs/{id}/input` returns them.
    """
    if dry_run:
        wanted = Submission(caller.project_id, spec)
        return json_response(
            DryRunObject.from_preview(await caller.service.writer.run(lambda c: preview_submission(c, wanted)))
        )
    submitted = await submit_job(caller.service, caller.key, spec, idempotency_key)
    location = {"Location": f"/v1/jobs/{submitted.job.id}"}
    if submitted.created:
        return _create_job_response(submitted.job, caller, 202, location)
    return _create_job_response(submitted.job, caller, 200, {**location, "Idempotency-Replayed": "true"})


@router.get("", response_model=Page[JobSummary])
async def list_jobs(query: Annotated[JobQuery, Query()], caller: CurrentCaller) -> Response:
    """List the project's jobs, newest first, without their specs and results."""
    wanted = query.to_filter()
    found = await caller.service.reader.run(
        lambda c: jobs.list_page(c, caller.project_id, wanted, after=query.after, limit=query.limit + 1)
    )
    return json_response(
        Page[JobSummary].from_items([JobSummary.from_record(job, caller.key) for job in found], query.limit)
    )


@router.get("/counts", response_model=JobCounts)
async def count_jobs(query: Annotated[JobSelection, Query()], caller: CurrentCaller) -> Response:
    """Count the matching jobs by state."""
    states = await caller.service.slow_reader.run(lambda c: jobs.count(c, caller.project_id, query.to_filter()))
    return json_response(JobCounts(total=sum(states.values()), states=dict(states.items())))


@router.get("/{job_id}", response_model=JobObject)
async def get_job(request: Request, job_id: str, caller: CurrentCaller) -> Response:
    """Return one job; its ETag changes whenever the job does, so If-None-Match makes polling cheap."""
    found = await caller.service.quick_reader.call(jobs.find, caller.job_key(job_id))
    if not satisfies_if_match(request.headers.get("If-Match"), _build_etag(found)):
        return create_precondition_failed_response(
            request, f"job {found.id} has changed; read it again without If-Match"
        )
    if matches_if_none_match(request.headers.get("If-None-Match"), _build_etag(found)):
        return Response(status_code=304, headers={"ETag": _build_etag(found)})
    return _create_job_response(found, caller)


@router.get("/{job_id}/input", response_class=Response, responses=FILE_RESPONSES)
async def download_input(job_id: str, request: Request, caller: CurrentCaller) -> Response:
    """Download the prompts or conversations that the spec describes in `inline_input`, as a JSON list."""
    found = await caller.service.quick_reader.call(jobs.find, caller.job_key(job_id))
    described = found.spec.get("inline_input")
    if described is None:
        raise NotFoundError(f"job {job_id} has no separate input; `GET /v1/jobs/{job_id}` shows its whole spec")
    return await file_response(
        request,
        caller.service.store,
        key=input_key(job_id),
        size=described["bytes"],
        sha256=described["sha256"],
        name=f"{job_id}-{described['field']}.json",
    )


@router.post("/{job_id}/cancel", status_code=202, response_model=JobObject)
async def cancel(job_id: str, caller: CurrentCaller, if_match: IfMatch = None) -> Response:
    """Cancel a job: immediately if it is waiting, through its worker if it is running. Cancelling twice is allowed."""
    job, settings, versions = caller.job_key(job_id), caller.service.settings, parse_if_match(if_match)
    changed = await caller.service.writer.run(lambda c: jobs.cancel(c, job, settings, versions=versions))
    return _create_job_response(changed, caller, 202)


@router.post("/{job_id}/retry", status_code=202, response_model=JobObject)
async def retry(job_id: str, caller: CurrentCaller, if_match: IfMatch = None) -> Response:
    """Queue a failed or cancelled job again."""
    job, settings, versions = caller.job_key(job_id), caller.service.settings, parse_if_match(if_match)
    changed = await caller.service.writer.run(lambda c: jobs.retry(c, job, settings, versions=versions))
    return _create_job_response(changed, caller, 202)


@router.post("/{job_id}/pause", status_code=202, response_model=JobObject)
async def pause(job_id: str, caller: CurrentCaller) -> Response:
    """Pause a fine-tuning job until it is resumed; a running job saves a resume point first."""
    job, settings = caller.job_key(job_id), caller.service.settings
    return _create_job_response(await caller.service.writer.run(lambda c: jobs.pause(c, job, settings)), caller, 202)


@router.post("/{job_id}/resume", status_code=202, response_model=JobObject)
async def resume(job_id: str, caller: CurrentCaller) -> Response:
    """Resume a paused job from its resume point."""
    job, settings = caller.job_key(job_id), caller.service.settings
    return _create_job_response(await caller.service.writer.run(lambda c: jobs.resume(c, job, settings)), caller, 202)


@router.get("/{job_id}/attempts", response_model=Page[AttemptObject])
async def list_attempts(query: Annotated[PageQuery, Query()], job_id: str, caller: CurrentCaller) -> Response:
    """List the attempts of a job, oldest first."""
    found = await caller.service.reader.run(lambda c: jobs.list_attempts(c, caller.job_key(job_id)))
    passed = [attempt.number for attempt in found if attempt.id == query.after]  # attempts are ordered by number
    if query.after and not passed:
        raise UnknownCursorError(query.after)
    behind = [AttemptObject.from_record(attempt) for attempt in found if attempt.number > max(passed, default=0)]
    return json_response(Page[AttemptObject].from_items(behind, query.limit))


def _create_job_response(
    job: JobDetails, caller: Caller, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return json_response(JobObject.from_details(job, caller.key), status, {"ETag": _build_etag(job), **(headers or {})})


def _build_etag(job: JobDetails) -> str:
    return f'"{job.version}"'
