"""Filters for lists and streams."""

from typing import Literal, TypedDict

EventType = Literal["state", "progress", "log"]


class JobFilters(TypedDict, total=False):
    """Filters for a list of jobs; a job must match all of them.

    Attributes:
        state: One state, or several separated by commas.
        label: A label, as `key:value`.
        field: A field of the spec and its value, as `name:value`.
        error: Part of the error's code or message.
        id: Prefix of the job's id.
        submitter: Name of the API key that submitted the job.
        created_after: Only jobs created at or after this time, in seconds since the epoch.
        created_before: Only jobs created before this time.
    """

    state: str | None
    kind: str | None
    label: str | None
    field: str | None
    error: str | None
    id: str | None
    submitter: str | None
    created_after: int | None
    created_before: int | None
