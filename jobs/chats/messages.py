"""Messages between API processes and the workers that serve a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request to a serving attempt.

    Attributes:
        id: Id of the chat.
        reply_to: Id of the API process, see `reply_stream_key`.
        request: Fields of `baichuan_core.generation.GenerationRequest` by name.
    """

    id: str
    reply_to: str
    request: Mapping[str, Any]
    type: Literal["ask"] = "ask"


@dataclass(frozen=True, slots=True)
class Abort:
    """Tells a serving attempt that nobody is waiting for this chat; the attempt sends no further reply."""

    id: str
    type: Literal["abort"] = "abort"


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A generated token or an alternative to it, with the natural logarithm of its probability."""

    token: str
    bytes: Sequence[int]
    logprob: float
    alternatives: Sequence["TokenLogprob"] = ()


@dataclass(frozen=True, slots=True)
class ChatStarted:
    """The request is valid and has joined the batch."""

    id: str
    number: int
    prompt_tokens: int
    type: Literal["started"] = "started"


@dataclass(frozen=True, slots=True)
class Delta:
    """New text of one of the `n` completions."""

    id: str
    number: int
    choice: int
    text: str
    logprobs: Sequence[TokenLogprob] = ()
    type: Literal["delta"] = "delta"


@dataclass(frozen=True, slots=True)
class ChoiceEnded:
    """One of the `n` completions has ended."""

    id: str
    number: int
    choice: int
    finish_reason: Literal["stop", "length"]
    completion_tokens: int
    type: Literal["choice_ended"] = "choice_ended"


@dataclass(frozen=True, slots=True)
class ChatEnded:
    """All completions of the chat have ended; no further reply follows."""

    id: str
    number: int
    type: Literal["ended"] = "ended"


@dataclass(frozen=True, slots=True)
class ChatRefused:
    """The chat ends without an answer, or in the middle of one; no further reply follows.

    Attributes:
        reason: `invalid` if the request is at fault; `busy` if the runner cannot accept more chats at the moment;
            `leaving` if its attempt is ending; `failed` if the runner died or the model computed NaN.
        message: Explanation for the client.
        param: The parameter at fault, by its name in `ChatRequest.request`.
    """

    id: str
    number: int
    reason: Literal["invalid", "busy", "leaving", "failed"]
    message: str
    param: str | None = None
    type: Literal["refused"] = "refused"


@dataclass(frozen=True, slots=True)
class ChatsAlive:
    """The runner is still working on these chats; sent every second, so that API processes notice if it dies."""

    ids: Sequence[str] = field(default_factory=list)
    type: Literal["alive"] = "alive"


Call = Annotated[ChatRequest | Abort, Field(discriminator="type")]
Reply = Annotated[ChatStarted | Delta | ChoiceEnded | ChatEnded | ChatRefused | ChatsAlive, Field(discriminator="type")]

CALL_ADAPTER: TypeAdapter[Call] = TypeAdapter(Call)
# Each entry of a reply stream contains one such list.
REPLIES_ADAPTER: TypeAdapter[list[Reply]] = TypeAdapter(list[Reply])


def call_queue_key(attempt_id: str) -> str:
    """Return the key of the Redis list from which a serving attempt's worker reads `Call`s."""
    return f"baichuan:chats:calls:{attempt_id}"


def reply_stream_key(process_id: str) -> str:
    """Return the key of the Redis stream whose `replies` fields contain lists of `Reply` for an API process."""
    return f"baichuan:chats:replies:{process_id}"


def process_key(process_id: str) -> str:
    """Return the Redis key that exists as long as an API process is alive."""
    return f"baichuan:chats:process:{process_id}"
