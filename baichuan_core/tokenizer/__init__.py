"""Encoding of text and chats as token ids."""

from baichuan_core.tokenizer.chat import Message, build_chat_prompt, encode_training_turns
from baichuan_core.tokenizer.chat_format import (
    ASSISTANT_TOKEN_ID,
    USER_TOKEN_ID,
    ChatFormat,
    ChatStyle,
    read_generation_settings,
)
from baichuan_core.tokenizer.chat_template import choose_chat_format
from baichuan_core.tokenizer.tokenizer import BaichuanTokenizer

__all__ = [
    "ASSISTANT_TOKEN_ID",
    "USER_TOKEN_ID",
    "BaichuanTokenizer",
    "ChatFormat",
    "ChatStyle",
    "Message",
    "build_chat_prompt",
    "choose_chat_format",
    "encode_training_turns",
    "read_generation_settings",
]
