"""Text to ids: the SentencePiece tokenizer and the chat prompt."""

from baichuan_core.tokenizer.chat import (
    ASSISTANT_TOKEN_ID,
    USER_TOKEN_ID,
    ChatFormat,
    Message,
    build_chat_prompt,
)
from baichuan_core.tokenizer.tokenizer import BaichuanTokenizer

__all__ = [
    "ASSISTANT_TOKEN_ID",
    "USER_TOKEN_ID",
    "BaichuanTokenizer",
    "ChatFormat",
    "Message",
    "build_chat_prompt",
]
