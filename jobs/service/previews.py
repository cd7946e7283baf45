"""Dry runs: the requirement and queue position that a job would have, without submitting it."""

from dataclasses import dataclass

from sqlalchemy import Connection

from footprint import Footprint
from jobs.errors import DomainError, InvalidRequestError
from jobs.repository import jobs
from jobs.scheduling import Requirement
from jobs.service.estimates import estimate
from jobs.service.submission import Submission, check_submissions


@dataclass(frozen=True, slots=True)
class Preview:
    """A job that would be accepted.

    Attributes:
        requirement: The resources that it would require.
        estimate: The memory that it would use; None if the model's sizes are not known.
        queue_position: Its place among the queued jobs, 1 for the first.
    """

    requirement: Requirement
    estimate: Footprint | None
    queue_position: int


def preview(connection: Connection, submission: Submission) -> Preview:
    """Check a submission without recording it.

    Raises:
        DomainError: it would not be accepted.
    """
    refused, required = check_submissions(connection, {0: submission})
    answer = refused.get(0)
    if isinstance(answer, DomainError):
        raise answer
    try:
        estimated = estimate(connection, submission.project_id, submission.spec)
    except InvalidRequestError:
        estimated = None
    return Preview(required[0], estimated, jobs.count_ahead(connection, submission.spec.priority) + 1)
