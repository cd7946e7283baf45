"""The asynchronous counterpart of `baichuan_client.jobs`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Self, Unpack

from pydantic import PrivateAttr

from baichuan_client import calls
from baichuan_client.aio.session import AsyncSession
from baichuan_client.errors import ApiError, UnreachableError
from baichuan_client.filters import EventType, JobFilters
from baichuan_client.following import EventFeed, JobWait
from baichuan_client.job_view import JobView
from baichuan_client.schemas import Artifact, Event
from baichuan_client.transfers import Download, Progress
from jobs.specs import JobSpec


class AsyncJob(JobView):
    """A job as of the last response; see `baichuan_client.Job`."""

    _session: AsyncSession = PrivateAttr()

    @classmethod
    def reader(cls, session: AsyncSession) -> "Callable[[Any], AsyncJob]":
        """Return a function that creates a job of this session from JSON."""

        def read(content: Any) -> AsyncJob:
            job = cls.model_validate(content)
            job._session = session
            return job

        return read

    async def refresh(self) -> Self:
        """Fetch the current state of the job and return the job."""
        return await self._session.call(calls.get_job(self.id, self._update))

    async def wait(self, timeout: float | None = None) -> Self:  # noqa: ASYNC109 - named as in `Job.wait`
        """Wait until the job has ended and return it; see `Job.wait`."""
        polls = JobWait(self.id, timeout)
        while True:
            call = calls.get_job(self.id, self._update, polls.tag)
            try:
                response = await self._session.send(call)
            except (UnreachableError, ApiError) as error:
                polls.note_outage(error)
            else:
                if polls.note_response(response):
                    call.parse(response, self._session.url)
                if self.is_final:
                    self._raise_unless_succeeded()
                    return self
            await asyncio.sleep(polls.next_pause())

    async def stream(self, *, after: int = 0, only: EventType | None = None) -> AsyncIterator[Event]:
        """Yield the events of the job until it has ended; see `Job.stream`."""
        feed = EventFeed(self.id, after, only)
        while True:
            try:
                async with self._session.stream(feed.call()) as response:
                    async for line in response.aiter_lines():
                        if (event := feed.read_line(line)) is not None:
                            yield event
                if feed.is_complete:
                    return
                pause = feed.note_job(is_final=(await self.refresh()).is_final)
            except (UnreachableError, ApiError) as error:
                pause = feed.note_outage(error)
            await asyncio.sleep(pause)

    async def cancel(self) -> Self:
        """Cancel the job and return it; if the job is running, its worker stops it."""
        return await self._change("cancel")

    async def retry(self) -> Self:
        """Queue the failed or cancelled job again and return it."""
        return await self._change("retry")

    async def pause(self) -> Self:
        """Pause the fine-tuning job until it is resumed, and return it."""
        return await self._change("pause")

    async def resume(self) -> Self:
        """Resume the paused job and return it."""
        return await self._change("resume")

    async def delete(self) -> None:
        """Delete the job, which must have ended, with its log, artifacts and model."""
        await self._session.send(calls.delete(calls.job_path(self.id)))

    async def logs(self) -> str:
        """Return the output of the job so far."""
        return (await self._session.send(calls.read_logs(self.id))).text

    async def artifacts(self) -> list[Artifact]:
        """Return the files that the job has published."""
        return [artifact async for artifact in self._session.iterate(calls.list_artifacts(self.id))]

    async def download(self, name: str, path: str | Path, *, progress: Progress | None = None) -> Path:
        """Fetch an artifact and check its hash; see `Job.download`. `progress` is called in other threads."""
        artifact = self._find_artifact(name, await self.artifacts())
        return await self._session.fetch(Download.from_artifact(artifact, Path(path), progress))

    async def _change(self, action: str) -> Self:
        return await self._session.call(calls.change_job(self.id, action, self._update))


class AsyncJobs:
    """The jobs of the project."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._read = AsyncJob.reader(session)

    async def submit(
        self,
        spec: JobSpec | Mapping[str, Any],
        *,
        labels: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncJob:
        """Submit a job; see `Jobs.submit`."""
        call = calls.submit_job(spec, self._read, labels=labels, idempotency_key=idempotency_key)
        return await self._session.call(call)

    async def get(self, job_id: str) -> AsyncJob:
        """Return a job."""
        return await self._session.call(calls.get_job(job_id, self._read))

    def list(self, *, limit: int | None = None, **filters: Unpack[JobFilters]) -> AsyncIterator[AsyncJob]:
        """Yield jobs, newest first, without `spec` and `result`; see `Jobs.list`."""
        return self._session.iterate(calls.list_jobs(self._read, filters, limit))
