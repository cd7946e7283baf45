"""Answers calls with a loaded model: all chats run in one event loop, and replies are sent together where possible.

On its way to a client, each message wakes the worker, Redis and the API process. If the model needs all cores of the
machine, that time is missing from its computation, so several tokens share a message.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Self

from baichuan_core.errors import BaichuanError, PromptError, UnsupportedError
from baichuan_core.generation import Completion, CompletionStream, GenerationRequest, TextDelta, TextGenerator
from baichuan_core.generation.engines.outputs import TokenLogprobs
from baichuan_core.generation.logprobs import format_openai_logprobs
from baichuan_core.generation.requests import OPTION_NAMES
from baichuan_core.out_of_memory import is_out_of_memory
from jobs.chats.messages import (
    Abort,
    Call,
    ChatEnded,
    ChatRefused,
    ChatRequest,
    ChatStarted,
    ChoiceEnded,
    Delta,
    Reply,
    TokenLogprob,
)
from workers.handlers.chat_channel import ChatChannel

OPTION_PATTERN = re.compile(rf"\b({'|'.join(OPTION_NAMES)})\b")
MIN_LOGPROB = -9999.0  # as in OpenAI's API; JSON has no infinity
# New text is held back for up to this long, to be sent together with more. The first text and the end of a chat are
# sent at once.
SEND_INTERVAL_SECONDS = 0.04
GATHER_SECONDS = 0.005  # new text is held back for at least this long, because other chats often have text as well
REQUEST_ERROR_PREFIX = "the request"  # prefix of the engine's error messages

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChatCounts:
    """Counts of the chats and tokens that a chat server has handled; see `ServeResult`."""

    chats: int = 0
    aborted: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChatServer:
    """Answers the chats that arrive through a channel.

    Args:
        generator: The loaded model; each chat is a request to it.
        channel: Channel for calls and replies.
        limit: Maximum number of open completions; a single chat may have more if no other is open.

    Attributes:
        counts: The chats answered so far.
    """

    def __init__(self, generator: TextGenerator, channel: ChatChannel, *, limit: int) -> None:
        self.counts = ChatCounts()
        self._generator = generator
        self._channel = channel
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        # Long prompts must not block the event loop.
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._completions: dict[str, int] = {}  # number of open completions per chat
        self._outgoing: list[Reply] = []
        self._sending: asyncio.TimerHandle | None = None
        self._sent_at = -SEND_INTERVAL_SECONDS
        self._is_leaving = False
        self._failure: BaseException | None = None
        self._idle_since = time.monotonic()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Self]:
        """Accept chats while the block runs; those still open at its end are dropped."""
        self._channel.open(self._schedule_call)
        try:
            yield self
        finally:
            self._channel.close()
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            self._encoder.shutdown(wait=True, cancel_futures=True)

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last chat ended; negative while one is open."""
        return -1.0 if self._tasks else time.monotonic() - self._idle_since

    def raise_engine_error(self) -> None:
        """Raise the unexpected engine error that has ended a chat, if any, because the engine may be broken."""
        if self._failure is not None:
            raise self._failure

    async def drain(self) -> None:
        """Refuse new chats, and wait until all open ones have ended."""
        self._is_leaving = True
        self._channel.reject_new_chats()
        while self._tasks:
            await asyncio.wait(self._tasks.values())

    def _schedule_call(self, call: Call) -> None:
        with suppress(RuntimeError):  # the event loop is closed; the worker refuses the chat
            self._loop.call_soon_threadsafe(self._receive_call, call)

    def _receive_call(self, call: Call) -> None:
        if isinstance(call, Abort):
            if (task := self._tasks.get(call.id)) is not None:
                task.cancel()
                # Make room at once for a call that arrives together with the abort.
                self._completions.pop(call.id, None)
        elif refused := self._find_refusal(call):
            self._add_to_counts(refused=1)
            self._schedule_reply(refused)
        else:
            self._completions[call.id] = _count_choices(call.request)
            task = self._loop.create_task(self._answer_chat(call))
            self._tasks[call.id] = task
            task.add_done_callback(lambda _: self._forget_chat(call.id))

    def _find_refusal(self, ask: ChatRequest) -> ChatRefused | None:
        if self._is_leaving:
            return ChatRefused(ask.id, 0, "leaving", "the job that serves chats is ending or being moved")
        count, running = _count_choices(ask.request), sum(self._completions.values())
        if running and running + count > self._limit:
            message = (
                f"the runner already has {running} open completions, this request needs {count} more,"
                f" and the limit is {self._limit}; wait and try again, or ask for fewer completions (prompts times n)"
            )
            return ChatRefused(ask.id, 0, "busy", message)
        return None

    def _forget_chat(self, chat_id: str) -> None:
        del self._tasks[chat_id]
        self._completions.pop(chat_id, None)
        self._idle_since = time.monotonic()

    async def _answer_chat(self, ask: ChatRequest) -> None:
        numbers = iter(range(2**62))
        stream: CompletionStream | None = None
        try:
            stream = await self._loop.run_in_executor(self._encoder, self._submit_request, ask.request)
            self._add_to_counts(prompt_tokens=stream.prompt_tokens)
            self._schedule_reply(ChatStarted(ask.id, next(numbers), stream.prompt_tokens))
            async for event in stream:
                self._schedule_reply(self._to_reply(event, ask.id, next(numbers)))
            self._add_to_counts(chats=1)
            self._schedule_reply(ChatEnded(ask.id, next(numbers)))
        except asyncio.CancelledError:
            self._add_to_counts(aborted=1)
            raise
        except Exception as error:  # noqa: BLE001 - the client must learn of any failure
            self._add_to_counts(refused=1)
            self._schedule_reply(self._make_refusal(error, ask, next(numbers), has_begun=stream is not None))
        finally:
            if stream is not None:
                stream.cancel()

    def _submit_request(self, fields: Mapping[str, Any]) -> CompletionStream:
        known = dict(fields)
        if known.get("logit_bias") is not None:
            known["logit_bias"] = {int(token): bias for token, bias in known["logit_bias"].items()}
        return self._generator.submit(GenerationRequest(**known, place=REQUEST_ERROR_PREFIX))

    def _to_reply(self, event: TextDelta | Completion, chat_id: str, number: int) -> Reply:
        if isinstance(event, TextDelta):
            return Delta(chat_id, number, event.sample, event.text, self._convert_logprobs(event.logprobs))
        self._add_to_counts(completion_tokens=event.completion_tokens)
        return ChoiceEnded(chat_id, number, event.sample, event.finish_reason, event.completion_tokens)

    def _convert_logprobs(self, logprobs: Sequence[TokenLogprobs]) -> list[TokenLogprob]:
        content = format_openai_logprobs(self._generator.tokenizer, logprobs)["content"] if logprobs else []
        return [_to_token_logprob(entry) for entry in content]

    def _make_refusal(self, error: Exception, ask: ChatRequest, number: int, *, has_begun: bool) -> ChatRefused:
        message = str(error).removeprefix(f"{REQUEST_ERROR_PREFIX}: ")
        if not has_begun and isinstance(error, PromptError | UnsupportedError):
            named = OPTION_PATTERN.search(message)
            source = "messages" if ask.request.get("messages") is not None else "prompt"
            return ChatRefused(ask.id, number, "invalid", message, named[1] if named else source)
        if not isinstance(error, BaichuanError) and not is_out_of_memory(error):
            self._failure = error
            message = f"{type(error).__name__}: {message}"
        return ChatRefused(ask.id, number, "failed", message)

    def _schedule_reply(self, reply: Reply) -> None:
        """Schedule a reply to be sent soon, together with all others that are ready by then."""
        self._outgoing.append(reply)
        now = self._loop.time()
        can_wait = isinstance(reply, Delta) and reply.number > 1
        due = max(now + GATHER_SECONDS, self._sent_at + SEND_INTERVAL_SECONDS) if can_wait else now
        if self._sending is None or due < self._sending.when():
            if self._sending is not None:
                self._sending.cancel()
            self._sending = self._loop.call_at(due, self._flush)

    def _flush(self) -> None:
        self._sending, self._sent_at = None, self._loop.time()
        replies, self._outgoing = self._outgoing, []
        self._channel.send(replies)

    def _add_to_counts(self, **more: int) -> None:
        self.counts = replace(self.counts, **{name: getattr(self.counts, name) + n for name, n in more.items()})


def _count_choices(request: Mapping[str, Any]) -> int:
    count = request.get("n")
    return count if isinstance(count, int) else 1


def _to_token_logprob(entry: Mapping[str, Any]) -> TokenLogprob:
    alternatives = [_to_token_logprob(each) for each in entry.get("top_logprobs", ())]
    return TokenLogprob(entry["token"], entry["bytes"], max(entry["logprob"], MIN_LOGPROB), alternatives)
