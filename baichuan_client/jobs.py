"""Jobs: submitting them, waiting for them, following their events and fetching their artifacts."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, Unpack

from pydantic import PrivateAttr

from baichuan_client import calls
from baichuan_client.errors import ApiError, UnreachableError
from baichuan_client.filters import EventType, JobFilters
from baichuan_client.following import EventFeed, JobWait
from baichuan_client.job_view import JobView
from baichuan_client.schemas import Artifact, Event
from baichuan_client.session import Session
from baichuan_client.transfers import Download, Progress
from jobs.specs import JobSpec


class Job(JobView):
    """A job as of the last response; methods that return the job also update its fields."""

    _session: Session = PrivateAttr()

    @classmethod
    def reader(cls, session: Session) -> "Callable[[Any], Job]":
        """Return a function that creates a job of this session from JSON."""

        def read(content: Any) -> Job:
            job = cls.model_validate(content)
            job._session = session
            return job

        return read

    def refresh(self) -> Self:
        """Fetch the current state of the job and return the job."""
        return self._session.call(calls.get_job(self.id, self._update))

    def wait(self, timeout: float | None = None) -> Self:
        """Wait until the job has ended and return it; service outages of up to a minute are tolerated.

        Args:
            timeout: Maximum seconds to wait; None waits indefinitely.

        Raises:
            JobFailedError: The job failed.
            JobCancelledError: The job was cancelled.
            TimeoutError: The job did not end in time; it is not cancelled.
        """
        polls = JobWait(self.id, timeout)
        while True:
            call = calls.get_job(self.id, self._update, polls.tag)
            try:
                response = self._session.send(call)
            except (UnreachableError, ApiError) as error:
                polls.note_outage(error)
            else:
                if polls.note_response(response):
                    call.parse(response, self._session.url)
                if self.is_final:
                    self._raise_unless_succeeded()
                    return self
            time.sleep(polls.next_pause())

    def stream(self, *, after: int = 0, only: EventType | None = None) -> Iterator[Event]:
        """Yield the job's events until it has ended; if the connection is lost, continue after the last event.

        Args:
            after: `sequence` of the last event seen; 0 for all.
            only: Yield only events of this type.
        """
        feed = EventFeed(self.id, after, only)
        while True:
            try:
                with self._session.stream(feed.call()) as response:
                    for line in response.iter_lines():
                        if (event := feed.read_line(line)) is not None:
                            yield event
                if feed.is_complete:
                    return
                pause = feed.note_job(is_final=self.refresh().is_final)
            except (UnreachableError, ApiError) as error:
                pause = feed.note_outage(error)
            time.sleep(pause)

    def cancel(self) -> Self:
        """Cancel the job and return it; if the job is running, its worker stops it."""
        return self._change("cancel")

    def retry(self) -> Self:
        """Queue the failed or cancelled job again and return it."""
        return self._change("retry")

    def pause(self) -> Self:
        """Pause the fine-tuning job until it is resumed, and return it."""
        return self._change("pause")

    def resume(self) -> Self:
        """Resume the paused job and return it."""
        return self._change("resume")

    def delete(self) -> None:
        """Delete the job, which must have ended, with its log, artifacts and model."""
        self._session.send(calls.delete(calls.job_path(self.id)))

    def logs(self) -> str:
        """Return the output of the job so far."""
        return self._session.send(calls.read_logs(self.id)).text

    def artifacts(self) -> list[Artifact]:
        """Return the files that the job has published."""
        return list(self._session.iterate(calls.list_artifacts(self.id)))

    def download(self, name: str, path: str | Path, *, progress: Progress | None = None) -> Path:
        """Fetch an artifact and check its hash; an interrupted download resumes where it stopped.

        Args:
            name: Path of the artifact, as `artifacts` lists it.
            path: File to write, or an existing directory, in which the artifact keeps its own path.
            progress: Called with the number of bytes fetched and the size of the file.

        Returns:
            The path of the file.

        Raises:
            DownloadError: There is no such artifact, or the received bytes differ from the published ones.
        """
        artifact = self._find_artifact(name, self.artifacts())
        return self._session.fetch(Download.from_artifact(artifact, Path(path), progress))

    def _change(self, action: str) -> Self:
        return self._session.call(calls.change_job(self.id, action, self._update))


class Jobs:
    """The jobs of the project."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._read = Job.reader(session)

    def submit(
        self,
        spec: JobSpec | Mapping[str, Any],
        *,
        labels: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit a job; a lost response is harmless, because the request is retried with the same Idempotency-Key.

        Args:
            spec: An object from `jobs.specs`, or an equivalent dictionary that includes `kind`.
            labels: Added to the labels of the spec.
            idempotency_key: Submitting again with this key returns the first job; a random key by default.
        """
        call = calls.submit_job(spec, self._read, labels=labels, idempotency_key=idempotency_key)
        return self._session.call(call)

    def get(self, job_id: str) -> Job:
        """Return a job."""
        return self._session.call(calls.get_job(job_id, self._read))

    def list(self, *, limit: int | None = None, **filters: Unpack[JobFilters]) -> Iterator[Job]:
        """Yield jobs, newest first, without `spec` and `result`; pages are requested as needed.

        Args:
            limit: Maximum number of jobs to return; None returns all.
            filters: Conditions that every job must meet.
        """
        return self._session.iterate(calls.list_jobs(self._read, filters, limit))
