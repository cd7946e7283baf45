"""Finds a job attempt that can answer a request; if none serves the model yet, submits a job to serve it."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from api.dependencies import Caller, Service
from api.openai.answers import BUSY_RETRY_AFTER_SECONDS, RETRY_AFTER_SECONDS, Answer, refusal_to_error, require_alive
from jobs.chats.client import OpenChat
from jobs.chats.messages import ChatRefused, ChatStarted
from jobs.errors import DomainError, InvalidRequestError, NotReadyError, ServingFailedError, TooManyRequestsError
from jobs.identifiers import new_id
from jobs.records import CAPACITY_CAUSES, JobRecord
from jobs.service import chats
from jobs.service.chats import NewChat, ServingStatus
from jobs.service.serving_attempts import ServingAttempt
from jobs.service.submission import Submission
from jobs.specs import ServeSpec
from jobs.state import JobState

POLL_INTERVAL_SECONDS = 0.2  # time between checks while a model is being loaded
MAX_FAILURES = 3  # give up once this many runners have failed without starting to answer
LOADING_RETRY_AFTER_SECONDS = 5  # Retry-After while a model is being loaded
NO_CAPACITY_RETRY_AFTER_SECONDS = 30  # Retry-After while a model is waiting for free memory or a slot
# Error codes of failures caused by the model or the request.
CLIENT_ERROR_CODES = (
    "checkpoint",
    "tokenizer",
    "adapter_mismatch",
    "prompt",
    "unsupported",
    "invalid_request",
    "insufficient_memory",
)


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """The answer that a request asks for.

    Attributes:
        answer_id: Id of the answer.
        endpoint: Path of the route.
        spec: Spec of the job that serves the model.
        requests: Fields of the engine's requests, one per prompt.
        choices: Number of completions per prompt.
        names: The client's parameter for each field of a request, if the names differ.
        wait_seconds: How long to wait for a model to be loaded.
        began: When the request arrived, in seconds of the monotonic clock.
    """

    answer_id: str
    endpoint: str
    spec: ServeSpec
    requests: Sequence[Mapping[str, Any]]
    choices: int
    names: Mapping[str, str]
    wait_seconds: float
    began: float


async def open_answer(caller: Caller, wanted: AnswerRequest) -> Answer:
    """Wait until an attempt has begun to answer; the caller must close the answer.

    Raises:
        InvalidRequestError: The request is at fault.
        TooManyRequestsError: The project has too many open chats, or the runners or the pool are full.
        NotReadyError: The model was not loaded in time, or Redis is unreachable.
        ServingFailedError: The job that should have loaded the model has failed.
    """
    caller.service.chats.add_open_chat(caller.project_id)
    try:
        return await _AttemptSearch(caller, wanted).run()
    except BaseException:
        caller.service.chats.remove_open_chat(caller.project_id)
        raise


class _AttemptSearch:
    """Searches for a job attempt that can answer one request; `_job` is the last known state of the serve job."""

    def __init__(self, caller: Caller, wanted: AnswerRequest) -> None:
        self._caller = caller
        self._service: Service = caller.service
        self._wanted = wanted
        self._ends_at = wanted.began + wanted.wait_seconds
        self._job: JobRecord | None = None
        self._refusal: DomainError | None = None
        self._failures = 0
        self._declined: set[str] = set()  # attempts of generate jobs that declined this request

    async def run(self) -> Answer:
        """Offer the request to each attempt until one begins to answer; see `open_answer`."""
        while True:
            place = await self._get_serving_status()
            self._refusal = None
            attempts = [attempt for attempt in place.attempts if attempt.attempt_id not in self._declined]
            for attempt in sorted(attempts, key=self._sort_key):
                if answer := await self._send_to_attempt(attempt):
                    return answer
                if not attempt.is_dedicated:
                    self._declined.add(attempt.attempt_id)
                    self._refusal = None
            if isinstance(self._refusal, TooManyRequestsError):
                raise self._refusal
            if not any(attempt.is_dedicated for attempt in attempts):
                await self._ensure_job(place)
            if self._service.closing.is_set() or time.monotonic() >= self._ends_at:
                raise self._make_waiting_error()
            await asyncio.sleep(POLL_INTERVAL_SECONDS)

    def _sort_key(self, attempt: ServingAttempt) -> tuple[bool, int]:
        return not attempt.is_dedicated, self._service.chats.loads[attempt.attempt_id]

    async def _get_serving_status(self) -> ServingStatus:
        project_id, spec = self._caller.project_id, self._wanted.spec
        job_id = self._job.id if self._job else None
        return await self._service.reader.run(
            lambda connection: chats.get_serving_status(connection, project_id, spec, job_id)
        )

    async def _send_to_attempt(self, attempt: ServingAttempt) -> Answer | None:
        """Ask an attempt for the answer; return None if it refuses, but another attempt may answer."""
        wanted, tracker = self._wanted, self._service.chats
        ids = [wanted.answer_id] if len(wanted.requests) == 1 else [new_id("part") for _ in wanted.requests]
        try:
            chat = await tracker.client.send_requests(attempt.attempt_id, dict(zip(ids, wanted.requests, strict=True)))
        except (RedisError, OSError) as error:
            message = f"cannot reach the runners, because Redis is not responding: {error}"
            raise NotReadyError(message, seconds=RETRY_AFTER_SECONDS) from error
        try:
            begun = await self._wait_for_start(chat)
            if isinstance(begun, ChatRefused):
                self._note_refusal(begun, attempt)
        except BaseException:
            tracker.client.close_chat(chat)
            raise
        if isinstance(begun, ChatRefused):
            tracker.client.close_chat(chat)
            return None
        key = self._caller.key
        row = NewChat(
            wanted.answer_id,
            key.project_id,
            key.id,
            key.name,
            wanted.spec.model,
            wanted.endpoint,
            attempt.job_id,
            attempt.attempt_id,
        )
        return Answer(self._service, row, chat, prompt_tokens=begun, choices=wanted.choices, began=wanted.began)

    def _note_refusal(self, refused: ChatRefused, attempt: ServingAttempt) -> None:
        """Remember why an attempt refused to answer.

        Raises:
            DomainError: No other attempt would answer either, or too many have failed.
        """
        self._refusal = refusal_to_error(refused, self._wanted.names)
        self._failures += refused.reason == "failed" and attempt.is_dedicated
        if refused.reason == "invalid" or self._failures >= MAX_FAILURES:
            raise self._refusal

    async def _wait_for_start(self, chat: OpenChat) -> int | ChatRefused:
        """Wait until all requests are in the batch; return their total number of prompt tokens, or the first refusal.

        Raises:
            NotReadyError: The attempt is silent.
        """
        started: dict[int, int] = {}
        later = []
        while len(started) < len(chat.ids):
            news = await chat.wait_for_replies(1.0)
            if not news:
                await require_alive(self._service, chat)
            for index, reply in news:
                if isinstance(reply, ChatRefused) and index not in started:
                    return reply
                if isinstance(reply, ChatStarted):
                    started[index] = reply.prompt_tokens
                else:
                    later.append((index, reply))
        chat.put_back(later)
        return sum(started.values())

    async def _ensure_job(self, place: ServingStatus) -> None:
        """Submit a job to serve the model, unless one is pending or running."""
        self._job = place.job
        if self._job is not None and self._job.state in (JobState.FAILED, JobState.CANCELLED):
            raise _make_ended_error(self._job)
        if self._job is None or self._job.state.is_final:
            submission = Submission(
                self._caller.project_id,
                self._wanted.spec,
                key_id=self._caller.key.id,
                submitter=self._caller.key.name,
            )
            self._job = await self._service.writer.run(
                lambda connection: chats.ensure_serve_job(connection, submission, place.model_key)
            )

    def _make_waiting_error(self) -> DomainError:
        """Return an error that states what the model is waiting for."""
        job = self._job
        if job is None:
            return self._refusal or NotReadyError("the model is not ready; try again", seconds=BUSY_RETRY_AFTER_SECONDS)
        model = f"model {job.source_model!r}"
        if job.state is JobState.QUEUED:
            waiting = job.waiting or {}
            reason = waiting.get("message", "it has just been queued")
            message = f"{model} is waiting for a worker to take job {job.id}: {reason}"
            if waiting.get("cause") in CAPACITY_CAUSES:
                return TooManyRequestsError(message, seconds=NO_CAPACITY_RETRY_AFTER_SECONDS)
            return NotReadyError(message, seconds=LOADING_RETRY_AFTER_SECONDS)
        progress = job.progress or {}
        stage = f", {progress['stage']}" if progress.get("stage") else ""
        return NotReadyError(
            f"{model} is being loaded: job {job.id} is {job.state}{stage}", seconds=LOADING_RETRY_AFTER_SECONDS
        )


def _make_ended_error(job: JobRecord) -> DomainError:
    """Return the error for a serve job that failed or was cancelled before it answered."""
    if job.state is JobState.CANCELLED:
        message = f"job {job.id}, which should have loaded model {job.source_model!r}, was cancelled; try again"
        return NotReadyError(message, seconds=LOADING_RETRY_AFTER_SECONDS)
    error = job.error or {}
    message = f"model {job.source_model!r} cannot be served: {error.get('message', 'its job failed')} (job {job.id})"
    if error.get("code") in CLIENT_ERROR_CODES:
        return InvalidRequestError(message, param="model")
    return ServingFailedError(message)
