"""Dry runs: the requirement and queue position that a job would have if it were submitted."""

from dataclasses import dataclass

from sqlalchemy import Connection

from footprint import Footprint
from jobs.errors import DomainError, InvalidRequestError
from jobs.repository import jobs
from jobs.scheduling import Requirement
from jobs.service.estimates import estimate_footprint
from jobs.service.submission import Submission, check_submissions


@dataclass(frozen=True, slots=True)
class JobPreview:
    """The result of a dry run of a job that would be accepted.

    Attributes:
        requirement: The resources that the job would require.
        estimate: The memory that it would use; None if the model's sizes are unknown.
        queue_position: Its position among the queued jobs, starting at 1.
    """

    requirement: Requirement
    estimate: Footprint | None
    queue_position: int


def preview_submission(connection: Connection, submission: Submission) -> JobPreview:
    """Check a submission without recording it.

    Raises:
        DomainError: the submission would be rejected.
    """
    refused, required = check_submissions(connection, {0: submission})
    answer = refused.get(0)
    if isinstance(answer, DomainError):
        raise answer
    try:
        estimated = estimate_footprint(connection, submission.project_id, submission.spec)
    except InvalidRequestError:
        estimated = None
    return JobPreview(required[0], estimated, jobs.count_jobs_ahead(connection, submission.spec.priority) + 1)
