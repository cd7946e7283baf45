"""A job's output by line number."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.dependencies import CurrentCaller
from api.responses import json_response
from api.schemas.logs import LogLine, LogLines, LogMatch, LogMatches
from api.schemas.requests import LogLinesQuery, LogSearchQuery
from api.schemas.times import to_seconds
from jobs.service import log_lines
from jobs.service.log_lines import Line, LineSearch

router = APIRouter(prefix="/v1/jobs/{job_id}/logs", tags=["jobs"])


@router.get("/lines", response_model=LogLines)
async def read_log_lines(query: Annotated[LogLinesQuery, Query()], job_id: str, caller: CurrentCaller) -> Response:
    """Return lines of a job's output, starting at line `first`; by default, the last lines."""
    total, found = await caller.service.reader.run(
        lambda c: log_lines.read_lines(c, caller.job_key(job_id), first=query.first, limit=query.limit)
    )
    lines = [_to_log_line(line) for line in found]
    first, last = (lines[0].number, lines[-1].number) if lines else (None, None)
    return json_response(LogLines(job_id=job_id, total=total, first=first, last=last, data=lines))


@router.get("/search", response_model=LogMatches)
async def search_log(query: Annotated[LogSearchQuery, Query()], job_id: str, caller: CurrentCaller) -> Response:
    """Find lines of a job's output that contain the given text, searching forwards or backwards from a line."""
    wanted = LineSearch(query.query, query.start, query.direction, query.ignore_case, query.limit, query.context)
    found = await caller.service.slow_reader.run(lambda c: log_lines.search_lines(c, caller.job_key(job_id), wanted))
    matches = [
        LogMatch(
            line=_to_log_line(match.line),
            before=[_to_log_line(line) for line in match.before],
            after=[_to_log_line(line) for line in match.after],
        )
        for match in found.found
    ]
    return json_response(LogMatches(job_id=job_id, count=found.count, position=found.position, data=matches))


def _to_log_line(line: Line) -> LogLine:
    return LogLine(
        number=line.number,
        stream=line.stream,
        attempt_id=line.attempt_id,
        created_at=to_seconds(line.created_at),
        text=line.text,
    )
