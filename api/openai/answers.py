"""Tracks answers in progress: collects their text, detects how they end, and records their results."""

import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api.dependencies import Service
from api.openai.completion_objects import Choice, Usage
from jobs.chats.client import ChatReply, OpenChat
from jobs.chats.messages import ChatEnded, ChatRefused, ChatStarted, ChoiceEnded, Delta, TokenLogprob
from jobs.database import OUTAGE_ERRORS
from jobs.errors import DomainError, InvalidRequestError, NotReadyError, TooManyRequestsError
from jobs.records import ChatState, Json
from jobs.service import chats
from jobs.service.chats import EndedChat, NewChat

REPLY_WAIT_SECONDS = 1.0
SILENCE_BEFORE_CHECK_SECONDS = 5.0  # workers report every second; after this long without a report, check the database
MAX_SILENCE_SECONDS = 15.0
RETRY_AFTER_SECONDS = 1
BUSY_RETRY_AFTER_SECONDS = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CompletionDelta:
    """New text of a completion; a `text` of None marks its end."""

    choice: Choice
    text: str | None
    logprobs: Sequence[TokenLogprob] = ()


class Answer:
    """An answer that a runner has begun to generate.

    Args:
        service: The service.
        row: The answer's row in the database.
        chat: The chat with the runner that generates its text.
        prompt_tokens: Tokens of all prompts.
        choices: Number of completions per prompt.
        began: When the request arrived, in seconds of the monotonic clock.

    Attributes:
        keep: Returns the JSON to store if the answer is completed; None if the client does not want it stored.
    """

    def __init__(
        self, service: Service, row: NewChat, chat: OpenChat, *, prompt_tokens: int, choices: int, began: float
    ) -> None:
        self.row = row
        self.created = int(time.time())
        self.choices = [Choice(index) for index in range(len(chat.ids) * choices)]
        self._service = service
        self._chat = chat
        self._prompt_tokens = prompt_tokens
        self._per_prompt = choices
        self._left = len(chat.ids)
        self._refused: ChatRefused | None = None
        self._began = began
        self._first_token_ms: int | None = None
        self._state: ChatState = "cancelled"
        self._error: Mapping[str, Any] | None = None
        self.keep: Callable[[], Json] | None = None
        service.chats.record_start(row)

    @property
    def usage(self) -> Usage:
        """Token usage so far."""
        return Usage.from_choices(self._prompt_tokens, self.choices)

    async def stream_deltas(self) -> AsyncIterator[list[CompletionDelta]]:
        """Yield new text as it arrives until the answer is complete, and an empty list after each second without any.

        Raises:
            DomainError: The answer cannot be completed, for example because the runner died.
        """
        while self._left:
            if self._service.closing.is_set():
                raise NotReadyError("the server is stopping; try again", seconds=RETRY_AFTER_SECONDS)
            news = await self._chat.wait_for_replies(REPLY_WAIT_SECONDS)
            if not news:
                await require_alive(self._service, self._chat)
            yield [delta for index, reply in news if (delta := self._process_reply(index, reply))]
            if self._refused is not None:
                raise refusal_to_error(self._refused, {})
        self._state = "succeeded"

    def _process_reply(self, index: int, reply: ChatReply) -> CompletionDelta | None:
        """Process a reply to the request with this index; return the new text or end of a completion, if any."""
        match reply:
            case Delta():
                return self._add_delta(self.choices[index * self._per_prompt + reply.choice], reply)
            case ChoiceEnded():
                choice = self.choices[index * self._per_prompt + reply.choice]
                choice.finish_reason = reply.finish_reason
                choice.completion_tokens = reply.completion_tokens
                return CompletionDelta(choice, None)
            case ChatEnded():
                self._left -= 1
            case ChatRefused():
                self._refused = self._refused or reply
            case ChatStarted():
                pass  # the prompt tokens were counted before the answer was opened
        return None

    async def wait(self) -> None:
        """Wait until the answer is complete; see `stream_deltas`."""
        async for _ in self.stream_deltas():
            pass

    def mark_failed(self, error: DomainError) -> None:
        """Record why the answer cannot be completed."""
        self._state, self._error = "failed", {"code": error.code, "message": error.message}

    def close(self) -> None:
        """Abort unfinished completions and record the answer, without waiting, because the caller may be cancelled."""
        self._service.chats.client.close_chat(self._chat)
        self._service.chats.remove_open_chat(self.row.project_id)
        usage = self.usage
        ended = EndedChat(
            chat=self.row,
            state=self._state,
            milliseconds=self._elapsed_ms(),
            finish_reason=self.choices[0].finish_reason,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            first_token_ms=self._first_token_ms,
            error=self._error,
            stored=self.keep() if self.keep and self._state == "succeeded" else None,
        )
        self._service.chats.record_end(ended)

    def _add_delta(self, choice: Choice, delta: Delta) -> CompletionDelta:
        if self._first_token_ms is None:
            self._first_token_ms = self._elapsed_ms()
        choice.texts.append(delta.text)
        choice.logprobs.extend(delta.logprobs)
        return CompletionDelta(choice, delta.text, delta.logprobs)

    def _elapsed_ms(self) -> int:
        return int((time.monotonic() - self._began) * 1000)


async def require_alive(service: Service, chat: OpenChat) -> None:
    """Check that an attempt that has been silent for a while is still running.

    Raises:
        NotReadyError: The attempt has ended, or has been silent for too long.
    """
    if chat.silent_seconds < SILENCE_BEFORE_CHECK_SECONDS:
        return
    try:
        running = await service.reader.run(lambda connection: chats.is_attempt_open(connection, chat.attempt_id))
    except OUTAGE_ERRORS:
        running = True
    if not running:
        raise NotReadyError("the job that was answering has ended; try again", seconds=RETRY_AFTER_SECONDS)
    if chat.silent_seconds > MAX_SILENCE_SECONDS:
        message = f"the runner has been silent for {MAX_SILENCE_SECONDS:g} s; try again"
        raise NotReadyError(message, seconds=RETRY_AFTER_SECONDS)


def refusal_to_error(refused: ChatRefused, names: Mapping[str, str]) -> DomainError:
    """Return the error for a runner's refusal to answer.

    Args:
        refused: The runner's reply.
        names: The client's parameter for each field of the request, if the names differ.
    """
    match refused.reason:
        case "invalid":
            param = refused.param and names.get(refused.param, refused.param)
            message = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), refused.message)
            return InvalidRequestError(message, param=param)
        case "busy":
            return TooManyRequestsError(refused.message, seconds=BUSY_RETRY_AFTER_SECONDS)
        case _:
            return NotReadyError(refused.message, seconds=RETRY_AFTER_SECONDS)
