"""Encoding of chats as the prompts that the published chat models were trained on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypedDict

from baichuan_core.errors import PromptError
from baichuan_core.tokenizer.chat_format import ChatFormat, ChatStyle
from baichuan_core.tokenizer.chat_template import encode_turns_with_template, encode_with_template

if TYPE_CHECKING:
    from baichuan_core.tokenizer.tokenizer import BaichuanTokenizer


class Message(TypedDict):
    """One message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


def build_chat_prompt(
    tokenizer: "BaichuanTokenizer",
    messages: Sequence[Message],
    *,
    model_max_length: int,
    max_new_tokens: int,
    chat_format: ChatFormat | None = None,
) -> list[int]:
    """Return the ids of the prompt for the next answer, as the published `generation_utils.py` does.

    The newest round is always kept; older rounds are kept as long as the prompt and the answer fit in the window. A
    prompt that is still too long is truncated on the left; if it comes from a checkpoint's own chat template, an error
    is raised instead.

    Args:
        tokenizer: The checkpoint's tokenizer.
        messages: An optional system message, then user and assistant messages.
        model_max_length: Size of the window in tokens.
        max_new_tokens: Maximum length of the answer in tokens.
        chat_format: Ids and style of the turns; by default those of Baichuan 2, with the ids 195 and 196.

    Raises:
        PromptError: There are no messages, a role is unknown, a system message is misplaced, or `max_new_tokens`
            leaves no room for a prompt. (The published code treats unknown roles as the assistant, and truncates
            incorrectly if there is no room.)
    """
    chat_format = chat_format or ChatFormat()
    _check_messages(messages, chat_format.style)
    if chat_format.style == "baichuan1-13b":
        # This model's published code limits the answer to half of the window instead of raising an error.
        budget = max(model_max_length // 2, model_max_length - max_new_tokens)
        return _build_baichuan1_prompt(tokenizer, messages, budget, chat_format)
    budget = model_max_length - max_new_tokens
    if budget <= 0:
        raise PromptError(
            f"max_new_tokens {max_new_tokens} leaves no room for a prompt in the window of {model_max_length}"
            f" tokens; set it below {model_max_length}"
        )
    if chat_format.style == "chat_template":
        return _build_template_prompt(tokenizer, messages, budget)
    return _build_baichuan2_prompt(tokenizer, messages, budget, chat_format)


def _check_messages(messages: Sequence[Message], style: ChatStyle) -> None:
    if isinstance(messages, str | Mapping):
        raise PromptError('messages is not a list; use, for example, [{"role": "user", "content": "Hello"}]')
    if not messages:
        raise PromptError("messages is empty; add at least one user message")
    allowed = {"user", "assistant"} if style == "baichuan1-13b" else {"system", "user", "assistant"}
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping):
            raise PromptError(f"message {number} is a {type(message).__name__}; use an object with role and content")
        role, content = message.get("role"), message.get("content")
        if role not in allowed:
            raise PromptError(f"message {number} has role {role!r}; use one of {', '.join(sorted(allowed))}")
        if not isinstance(content, str):
            raise PromptError(f"message {number} has no text; set 'content' to a string")
        if role == "system" and number > 1:
            raise PromptError(f"message {number} is a system message; move it to the beginning")


def _build_baichuan2_prompt(
    tokenizer: "BaichuanTokenizer", messages: Sequence[Message], budget: int, chat_format: ChatFormat
) -> list[int]:
    has_system = messages[0]["role"] == "system"
    system = tokenizer.encode_text(messages[0]["content"]) if has_system else []
    room = budget - len(system)

    def encode(message: Message) -> list[int]:
        opening = chat_format.user_token_id if message["role"] == "user" else chat_format.assistant_token_id
        return [opening, *tokenizer.encode_text(message["content"])]

    history = _encode_newest_rounds(_split_into_rounds(messages[has_system:]), encode, room)
    awaits_answer = messages[-1]["role"] != "assistant"
    prompt = system + history + [chat_format.assistant_token_id] * awaits_answer
    return prompt[-budget:]


def encode_training_turns(
    tokenizer: "BaichuanTokenizer", messages: Sequence[Message], chat_format: ChatFormat
) -> list[tuple[bool, list[int]]]:
    """Encode a chat in parts, in the same format as prompts; each part has a flag for whether to train on it.

    Raises:
        TokenizerError: A text cannot be encoded.
        PromptError: A role is unknown, a system message is misplaced, or the checkpoint's chat template cannot render
            the chat.
    """
    _check_messages(messages, chat_format.style)
    if chat_format.style == "chat_template":
        return encode_turns_with_template(tokenizer, messages)
    parts: list[tuple[bool, list[int]]] = []
    for message in messages:
        opening, *ids = _encode_baichuan1_turn(tokenizer, message, chat_format)
        parts += [(False, [opening]), (message["role"] == "assistant", ids)]
    return parts


def _encode_baichuan1_turn(tokenizer: "BaichuanTokenizer", message: Message, chat_format: ChatFormat) -> list[int]:
    ids = tokenizer.encode_text(message["content"])
    if message["role"] == "user":
        return [chat_format.user_token_id, *ids]
    return [chat_format.assistant_token_id, *ids, tokenizer.eos_token_id]


def _build_baichuan1_prompt(
    tokenizer: "BaichuanTokenizer", messages: Sequence[Message], budget: int, chat_format: ChatFormat
) -> list[int]:
    def encode(message: Message) -> list[int]:
        return _encode_baichuan1_turn(tokenizer, message, chat_format)

    rounds = [one for one in _split_into_rounds(messages) if one[0]["role"] == "user"]
    if not rounds:
        raise PromptError("the chat has no user message; add one")
    return [*_encode_newest_rounds(rounds, encode, budget)[-budget:], chat_format.assistant_token_id]


def _build_template_prompt(tokenizer: "BaichuanTokenizer", messages: Sequence[Message], budget: int) -> list[int]:
    """Build a prompt, dropping the oldest rounds until it fits; with a custom template, no round is ever truncated."""
    has_system = messages[0]["role"] == "system"
    rounds = _split_into_rounds(messages[has_system:])
    ids: list[int] = []
    for first in range(max(len(rounds), 1)):
        kept = [message for one in rounds[first:] for message in one]
        ids = encode_with_template(tokenizer, [*messages[:has_system], *kept])
        if len(ids) <= budget:
            return ids
    raise PromptError(
        f"the newest messages have {len(ids)} tokens with the checkpoint's chat template, but only {budget} fit"
        " alongside the answer: shorten them, or lower max_new_tokens"
    )


def _split_into_rounds(messages: Iterable[Message]) -> list[list[Message]]:
    """Split messages into rounds; each starts with a user message, except that the first may start with any message."""
    rounds: list[list[Message]] = []
    for message in messages:
        if message["role"] == "user" or not rounds:
            rounds.append([])
        rounds[-1].append(message)
    return rounds


def _encode_newest_rounds(
    rounds: Sequence[Sequence[Message]], encode: Callable[[Message], list[int]], room: int
) -> list[int]:
    """Return the ids of the newest round and of as many earlier ones as fit into `room` tokens."""
    history: list[int] = []
    for messages in reversed(rounds):
        ids = [token_id for message in messages for token_id in encode(message)]
        if history and len(history) + len(ids) > room:
            break
        history = ids + history
        if len(history) >= room:
            break
    return history
