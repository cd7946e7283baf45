"""The chat format of a checkpoint, inferred from its configuration files."""

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

ChatStyle = Literal["baichuan2", "baichuan1-13b", "chat_template"]

USER_TOKEN_ID = 195  # user_token_id and assistant_token_id in the published generation_config.json
ASSISTANT_TOKEN_ID = 196


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """Chat format of a checkpoint.

    Attributes:
        user_token_id: Id that opens a user turn.
        assistant_token_id: Id that opens an assistant turn.
        style: `baichuan2`; `baichuan1-13b`, which ends each answer with eos and has no system message; or
            `chat_template`, the template of the checkpoint's tokenizer.
    """

    user_token_id: int = USER_TOKEN_ID
    assistant_token_id: int = ASSISTANT_TOKEN_ID
    style: ChatStyle = "baichuan2"

    @classmethod
    def from_checkpoint(cls, checkpoint: Path, config: BaichuanConfig) -> "ChatFormat":
        """Return a checkpoint's published format: that of Baichuan 2, except for the first Baichuan-13B-Chat.

        Raises:
            CheckpointError: `generation_config.json` is damaged or contains ids outside the model's vocabulary.
        """
        return cls.from_settings(read_generation_settings(checkpoint), config)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], config: BaichuanConfig) -> "ChatFormat":
        """Return the published format of a checkpoint with these generation settings.

        Raises:
            CheckpointError: The settings contain ids outside the model's vocabulary.
        """
        for name in ("user_token_id", "assistant_token_id"):
            if settings.get(name, 0) not in range(config.vocab_size):
                raise CheckpointError(
                    f"{name} in generation_config.json is {settings[name]!r};"
                    f" use an id below the model's vocab_size {config.vocab_size}"
                )
        has_first_vocabulary = BAICHUAN1_VOCABULARY_SIZE <= config.vocab_size < BAICHUAN2_VOCABULARY_SIZE
        is_first_13b = config.position_embedding == "alibi" and not config.norm_head and has_first_vocabulary
        return cls(
            user_token_id=settings.get("user_token_id", USER_TOKEN_ID),
            assistant_token_id=settings.get("assistant_token_id", ASSISTANT_TOKEN_ID),
            style="baichuan1-13b" if is_first_13b else "baichuan2",
        )


def read_generation_settings(checkpoint: Path) -> dict[str, Any]:
    """Return the non-null fields of `generation_config.json`; an empty dictionary if the file is missing.

    Raises:
        CheckpointError: The file is damaged, or a field has an invalid value.
    """
    try:
        return read_generation_config(checkpoint)
    except FileError as error:
        raise CheckpointError(str(error)) from error
