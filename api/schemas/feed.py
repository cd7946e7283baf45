"""The events of a project's event stream."""

from typing import Literal, Self

from pydantic import BaseModel, Field

from api.schemas.pages import IdentifiedObject
from api.schemas.times import to_seconds
from jobs.records import FeedRecord, Json

FeedEventType = Literal["state", "progress", "log", "metrics", "deleted", "bulk"]


class FeedEvent(IdentifiedObject):
    """One change in a project. Events are numbered without gaps: the next event's `id` is larger by one."""

    object: Literal["event"] = "event"
    type: FeedEventType = Field(
        description="state: a job was submitted or changed its state (data: from, to, event, kind);"
        " progress: a running job reported its progress (data: fraction, stage, metrics);"
        " log: the job printed lines (data: first_line, last_line);"
        " metrics: the job logged steps (data: first_step, last_step);"
        " deleted: the job was deleted;"
        " bulk: a bulk operation made progress (data: id, action, matched, processed, changed, failed, done)"
    )
    job_id: str | None = Field(description="The job that changed; null for a bulk operation")
    data: Json
    created_at: int

    @classmethod
    def from_record(cls, event: FeedRecord) -> Self:
        """Return the event as clients see it."""
        return cls(
            id=str(event.position),
            type=event.type,
            job_id=event.job_id,
            data=event.data,
            created_at=to_seconds(event.created_at),
        )


class FeedPage(BaseModel):
    """A page of a project's events, oldest first."""

    object: Literal["event.page"] = "event.page"
    data: list[FeedEvent]
    position: int = Field(description="The value of `after` for the next request")
    reset: bool = Field(description="Whether the events after `after` are no longer kept; if so, read everything again")
