"""Chat templates of the published chat models, and prompts from a checkpoint's own template."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import CheckpointError, PromptError
from baichuan_core.tokenizer.chat_format import ChatFormat, read_generation_settings

if TYPE_CHECKING:
    from baichuan_core.tokenizer.tokenizer import BaichuanTokenizer

# Inserted into control pieces that appear in the text of a message, to distinguish them from those written by the
# template.
CONTROL_ESCAPE = "\ufdd0"  # a code point that Unicode reserves for internal use
BAICHUAN2_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'system' and loop.first -%}{{ message['content'] }}
{%- elif message['role'] == 'user' -%}{{ USER + message['content'] }}
{%- elif message['role'] == 'assistant' -%}{{ ASSISTANT + message['content'] }}
{%- else -%}{{ raise_exception('only user, assistant and a leading system message are possible') }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and messages[-1]['role'] != 'assistant' -%}{{ ASSISTANT }}{%- endif -%}
"""
BAICHUAN1_13B_TEMPLATE = """\
{%- set ns = namespace(begun=false) -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}{%- set ns.begun = true -%}{{ USER + message['content'] }}
{%- elif message['role'] == 'assistant' -%}
{%- if ns.begun -%}{{ ASSISTANT + message['content'] + eos_token }}{%- endif -%}
{%- else -%}{{ raise_exception('only user and assistant messages are possible') }}
{%- endif -%}
{%- endfor -%}
{%- if not ns.begun -%}{{ raise_exception('the chat has no user message') }}{%- endif -%}
{%- if add_generation_prompt -%}{{ ASSISTANT }}{%- endif -%}
"""
PUBLISHED_TEMPLATES = {"baichuan2": BAICHUAN2_TEMPLATE, "baichuan1-13b": BAICHUAN1_13B_TEMPLATE}


def build_published_template(tokenizer: "BaichuanTokenizer", chat_format: ChatFormat) -> str:
    """Return the template whose prompts equal those of `build_chat_prompt`, provided that they fit in the window."""
    template = PUBLISHED_TEMPLATES[chat_format.style]
    for name, token_id in (("USER", chat_format.user_token_id), ("ASSISTANT", chat_format.assistant_token_id)):
        template = template.replace(name, repr(str(tokenizer.convert_ids_to_tokens(token_id))))
    return template


def find_published_template(tokenizer: "BaichuanTokenizer") -> str | None:
    """Return the published template for the chat model in the tokenizer's directory; None for a base model."""
    directory = Path(tokenizer.vocab_file or "").parent
    try:
        settings = read_generation_settings(directory)
        if "user_token_id" not in settings:
            return None
        config = BaichuanConfig.from_pretrained(directory, local_files_only=True)
        return build_published_template(tokenizer, ChatFormat.from_settings(settings, config))
    except (CheckpointError, OSError, ValueError, TypeError):
        return None  # the model cannot be used; loading it reports the reason


def choose_chat_format(
    tokenizer: "BaichuanTokenizer", config: BaichuanConfig, settings: Mapping[str, Any]
) -> ChatFormat:
    """Return the published format, or one with the style `chat_template` if the tokenizer has its own template.

    Args:
        tokenizer: The checkpoint's tokenizer.
        config: Configuration of the checkpoint.
        settings: Generation settings of the checkpoint.

    Raises:
        CheckpointError: The settings contain turn ids outside the model's vocabulary.
    """
    published = ChatFormat.from_settings(settings, config)
    template = tokenizer.chat_template
    if template is None or (isinstance(template, str) and _is_published_template(template, published)):
        return published
    return replace(published, style="chat_template")


def _is_published_template(template: str, chat_format: ChatFormat) -> bool:
    """Return whether a template equals the published one, except for the tokens that open turns."""
    pattern = re.escape(PUBLISHED_TEMPLATES[chat_format.style].strip())
    for name in ("USER", "ASSISTANT"):
        pattern = pattern.replace(name, "'[^']*'")
    return re.fullmatch(pattern, template.strip()) is not None


def encode_with_template(
    tokenizer: "BaichuanTokenizer", messages: Sequence[Mapping[str, Any]], *, asks: bool | None = None
) -> list[int]:
    """Return the ids of a chat rendered with the tokenizer's template.

    Args:
        tokenizer: A tokenizer with a chat template.
        messages: The chat.
        asks: Whether the prompt ends by asking for the next answer. If None, it does so unless the last message is
            the assistant's, which is then left open for the model to continue.

    Raises:
        PromptError: The template rejects the messages or fails.
    """
    continues = asks is None and messages[-1]["role"] == "assistant"
    try:
        ids: list[int] = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            add_generation_prompt=not continues if asks is None else asks,
            continue_final_message=continues,
            return_dict=False,
        )
    except Exception as error:  # a template can raise any exception, for example ZeroDivisionError
        raise PromptError(f"the checkpoint's chat template cannot render these messages: {error}") from error
    return ids


def encode_turns_with_template(
    tokenizer: "BaichuanTokenizer", messages: Sequence[Mapping[str, Any]]
) -> list[tuple[bool, list[int]]]:
    """Encode a chat in parts, for training on the answers; each part has a flag for whether it is an answer.

    Raises:
        PromptError: The template rejects the messages, or renders earlier turns differently when later ones follow.
    """
    parts: list[tuple[bool, list[int]]] = []
    done: list[int] = []
    for number in (number for number, message in enumerate(messages) if message["role"] == "assistant"):
        asked = encode_with_template(tokenizer, messages[:number], asks=True) if number else []
        answered = encode_with_template(tokenizer, messages[: number + 1], asks=False)
        if asked[: len(done)] != done or answered[: len(asked)] != asked:
            raise PromptError(
                "the checkpoint's chat template renders earlier turns differently when later ones follow, so it"
                " is not possible to train on several turns of one example: split the example"
            )
        parts += [(False, asked[len(done) :]), (True, answered[len(asked) :])]
        done = answered
    if parts and tokenizer.eos_token_id not in parts[-1][1]:
        parts.append((True, [tokenizer.eos_token_id]))  # without an end token, the model would not learn to stop
    return parts


def build_control_pattern(tokenizer: "BaichuanTokenizer") -> re.Pattern[str]:
    """Return a pattern that matches any control piece, preferring longer ones; its only group is the piece."""
    pieces = {*tokenizer.control_pieces, *tokenizer.all_special_tokens, *tokenizer.added_tokens_encoder}
    longest_first = sorted(pieces, key=lambda piece: (-len(piece), piece))
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")


def escape_control_pieces(value: Any, pattern: re.Pattern[str]) -> Any:
    """Return a copy of messages with `CONTROL_ESCAPE` inside every control piece; `split_rendered_chat` removes it."""
    if isinstance(value, str):
        doubled = value.replace(CONTROL_ESCAPE, CONTROL_ESCAPE * 2)
        return pattern.sub(lambda match: match[0][0] + CONTROL_ESCAPE + match[0][1:], doubled)
    if isinstance(value, Mapping):
        return {key: escape_control_pieces(part, pattern) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [escape_control_pieces(part, pattern) for part in value]
    return value


def split_rendered_chat(text: str, pattern: re.Pattern[str]) -> list[tuple[bool, str]]:
    """Split a rendered chat into control pieces and texts; each has a flag for whether it is a control piece."""
    parts: list[tuple[bool, str]] = []
    for index, part in enumerate(pattern.split(text)):
        if index % 2:
            parts.append((True, part))
            continue
        texts = [
            one.replace(CONTROL_ESCAPE * 2, CONTROL_ESCAPE)
            for one in re.split(f"(?<!{CONTROL_ESCAPE}){CONTROL_ESCAPE}(?!{CONTROL_ESCAPE})", part)
        ]
        parts += [(False, one) for one in texts if one]
    return parts
