"""Text to ids: the SentencePiece tokenizer and the chat prompt."""

from baichuan_core.tokenizer.chat import Message, build_chat_prompt
from baichuan_core.tokenizer.chat_format import (
    ASSISTANT_TOKEN_ID,
    USER_TOKEN_ID,
    ChatFormat,
    read_generation_settings,
)
from baichuan_core.tokenizer.tokenizer import BaichuanTokenizer

__all__ = [
    "ASSISTANT_TOKEN_ID",
    "USER_TOKEN_ID",
    "BaichuanTokenizer",
    "ChatFormat",
    "Message",
    "build_chat_prompt",
    "read_generation_settings",
]
