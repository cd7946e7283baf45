"""/v1/datasets: previews of training data before a fine-tuning run."""

import asyncio
import re
import time
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response

from api.dependencies import Caller, CurrentCaller
from api.json_bodies import JsonRoute
from api.responses import json_response
from api.routes.jobs import IdempotencyKey
from api.schemas.jobs import JobObject
from jobs.records import JobDetails
from jobs.service import jobs, submission
from jobs.service.submission import Submission
from jobs.specs import PreviewSpec

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], route_class=JsonRoute)

MAX_WAIT_SECONDS = 60
WAIT_PREFERENCE_PATTERN = re.compile(r"(?:^|[,;\s])wait=(\d{1,6})(?:$|[,;\s])")

PreferHeader = Annotated[
    str | None,
    Header(max_length=255, description=f"`wait=N` waits up to N seconds; the maximum is {MAX_WAIT_SECONDS} (RFC 7240)"),
]
FINISHED_JOB_RESPONSE: dict[int | str, dict[str, Any]] = {200: {"model": JobObject, "description": "The finished job"}}


@router.post("/preview", status_code=202, response_model=JobObject, responses=FINISHED_JOB_RESPONSE)
async def preview(
    spec: PreviewSpec, caller: CurrentCaller, prefer: PreferHeader = None, idempotency_key: IdempotencyKey = None
) -> Response:
    """Show training data as a fine-tuning run would read it: tokens, lengths, and what is truncated or dropped.

    This submits a job of the kind `preview`, whose `result` contains the preview. With `Prefer: wait=10`, the response
    is 200 with the finished job if the job ends within 10 seconds; otherwise, it is 202 with the job to poll.
    """
    wanted = Submission(caller.project_id, spec, idempotency_key)
    job = (await caller.service.writer.call(submission.submit, wanted)).job
    seconds = _read_wait_seconds(prefer)
    job = await _await_job_end(caller, job, seconds)
    headers = {"Location": f"/v1/jobs/{job.id}"}
    if seconds:
        headers["Preference-Applied"] = f"wait={seconds}"
    return json_response(JobObject.from_details(job, caller.key), 200 if job.state.is_final else 202, headers)


def _read_wait_seconds(prefer: str | None) -> int:
    """Return the seconds to wait; other preferences are ignored, as the standard requires."""
    found = WAIT_PREFERENCE_PATTERN.search(prefer or "")
    return min(int(found[1]), MAX_WAIT_SECONDS) if found else 0


async def _await_job_end(caller: Caller, job: JobDetails, seconds: int) -> JobDetails:
    service, key = caller.service, caller.job_key(job.id)
    ends_at = time.monotonic() + seconds
    while not job.state.is_final and time.monotonic() < ends_at and not service.closing.is_set():
        await asyncio.sleep(service.settings.stream_poll_seconds)
        record = await service.quick_reader.call(jobs.find_records, key)
        if record.state.is_final:
            return await service.quick_reader.call(jobs.find, key)
    return job
