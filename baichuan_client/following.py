"""State kept between the requests that wait for a job or follow its events; this module sends no requests itself."""

import json
import time
from typing import Any

import httpx

from baichuan_client.call import Call
from baichuan_client.calls import follow_job
from baichuan_client.errors import ApiError, UnreachableError
from baichuan_client.retry_state import Outage
from baichuan_client.schemas import Event

FIRST_PAUSE_SECONDS = 0.2
MAX_PAUSE_SECONDS = 2.0
PAUSE_GROWTH = 1.3
RECONNECT_SECONDS = 0.5


class JobWait:
    """The state of polling a job until it has ended, with growing pauses between polls."""

    def __init__(self, job: str, timeout: float | None) -> None:
        self.tag = ""
        self._job = job
        self._timeout = timeout
        self._ends_at = None if timeout is None else time.monotonic() + timeout
        self._pause = FIRST_PAUSE_SECONDS
        self._outage = Outage()

    def note_response(self, response: httpx.Response) -> bool:
        """Note a response, and return whether the job has changed since the previous one."""
        self._outage.end()
        if response.status_code == httpx.codes.NOT_MODIFIED:
            return False
        self.tag = response.headers.get("ETag", "")
        return True

    def note_outage(self, error: ApiError | UnreachableError) -> None:
        """Tolerate an error during a short outage of the service; otherwise, raise it."""
        self._pause = self._outage.note(error)

    def next_pause(self) -> float:
        """Return the seconds until the next poll.

        Raises:
            TimeoutError: The timeout has elapsed.
        """
        pause = self._pause
        self._pause = min(MAX_PAUSE_SECONDS, pause * PAUSE_GROWTH)
        if self._ends_at is None:
            return pause
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"job {self._job} has not ended after {self._timeout:g} s; it was not cancelled")
        return min(pause, left)


class EventFeed:
    """The events of a job, read from successive streams until the job has ended."""

    def __init__(self, job: str, after: int, event_type: str | None) -> None:
        """Prepare to read the events after a sequence number.

        Args:
            job: Id of the job.
            after: Sequence number of the last event seen; 0 for all.
            event_type: Only events of this type; None for all.
        """
        self._job = job
        self._after = after
        self._type = event_type
        self._fields: dict[str, str] = {}
        self._outage = Outage()
        self._is_final = False

    def call(self) -> Call[Any]:
        """Return the request that continues after the last event."""
        self._fields = {}
        return follow_job(self._job, self._after, self._type)

    def read_line(self, line: str) -> Event | None:
        """Return the event that this line of the stream completes, if any."""
        self._outage.end()
        if line:
            name, _, value = line.partition(":")  # comments have an empty name; they keep the connection open
            self._fields[name] = value.removeprefix(" ")
            return None
        text = self._fields.get("data")
        self._fields = {}
        if text is None:
            return None
        event = Event.model_validate(json.loads(text))
        self._after = event.sequence
        if event.type == "state":
            self._is_final = event.ends_job
        return event

    @property
    def is_complete(self) -> bool:
        """Whether a stream that ended without an error has delivered all events, because the job had ended.

        The server also ends streams when it shuts down.
        """
        return self._is_final

    def note_job(self, *, is_final: bool) -> float:
        """Note the state of the job after a stream has ended; return the seconds to wait before the next stream."""
        self._is_final = is_final
        return 0.0 if is_final else RECONNECT_SECONDS

    def note_outage(self, error: ApiError | UnreachableError) -> float:
        """Return the seconds to wait before the next stream; raise the error unless it is part of a short outage."""
        return self._outage.note(error)
