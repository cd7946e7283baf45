"""How a checkpoint writes chats, told from its configuration files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import CheckpointError
from checkpoint_files import (
    BAICHUAN1_VOCABULARY_SIZE,
    BAICHUAN2_VOCABULARY_SIZE,
    FileError,
    read_generation_config,
)

ChatForm = Literal["baichuan2", "baichuan1-13b", "chat_template"]

USER_TOKEN_ID = 195  # user_token_id and assistant_token_id in the published generation_config.json
ASSISTANT_TOKEN_ID = 196


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How a checkpoint writes a chat.

    Attributes:
        user_token_id: The id that opens a user turn.
        assistant_token_id: The id that opens an assistant turn.
        form: ``baichuan2``; ``baichuan1-13b``, which ends each answer by eos and has no system message; or
            ``chat_template``, the template that the checkpoint's tokenizer has.
    """

    user_token_id: int = USER_TOKEN_ID
    assistant_token_id: int = ASSISTANT_TOKEN_ID
    form: ChatForm = "baichuan2"

    @classmethod
    def of(cls, checkpoint: Path, config: BaichuanConfig) -> "ChatFormat":
        """The format of a checkpoint; only Baichuan-13B-Chat (the first) has a form of its own.

        Raises:
            CheckpointError: ``generation_config.json`` is damaged or names ids that the model does not have.
        """
        return cls.from_settings(read_generation_settings(checkpoint), config)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], config: BaichuanConfig) -> "ChatFormat":
        """Return the published format of a checkpoint with these generation settings.

        Raises:
            CheckpointError: The settings name ids that the model does not have.
        """
        for name in ("user_token_id", "assistant_token_id"):
            if settings.get(name, 0) not in range(config.vocab_size):
                raise CheckpointError(
                    f"{name} in generation_config.json is {settings[name]!r};"
                    f" use an id below the model's vocab_size {config.vocab_size}"
                )
        first_vocabulary = BAICHUAN1_VOCABULARY_SIZE <= config.vocab_size < BAICHUAN2_VOCABULARY_SIZE
        first_13b = config.position_embedding == "alibi" and not config.norm_head and first_vocabulary
        return cls(
            user_token_id=settings.get("user_token_id", USER_TOKEN_ID),
            assistant_token_id=settings.get("assistant_token_id", ASSISTANT_TOKEN_ID),
            form="baichuan1-13b" if first_13b else "baichuan2",
        )


def read_generation_settings(checkpoint: Path) -> dict[str, Any]:
    """What stands in ``generation_config.json``, null values left out; empty where there is no such file.

    Raises:
        CheckpointError: The file is damaged, or a field has a value that cannot be used.
    """
    try:
        return read_generation_config(checkpoint)
    except FileError as error:
        raise CheckpointError(str(error)) from error
