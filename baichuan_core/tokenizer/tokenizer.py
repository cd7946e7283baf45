"""SentencePiece tokenizer of the Baichuan family, as a native transformers class."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from transformers import SentencePieceBackend
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE

from baichuan_core.config import DEFAULT_CONTEXT_LENGTH, BaichuanConfig
from baichuan_core.errors import TokenizerError
from baichuan_core.tokenizer.chat import Message, build_chat_prompt
from baichuan_core.tokenizer.chat_template import (
    build_control_pattern,
    choose_chat_format,
    escape_control_pieces,
    find_published_template,
    split_rendered_chat,
)

_RESERVED_PIECE_PATTERN = re.compile(r"<reserved_\d+>")
_RESERVED_PIECE_SPLIT_PATTERN = re.compile(r"(?<=<)(?=reserved_\d+>)")


class BaichuanTokenizer(SentencePieceBackend):
    """Byte-pair tokenizer with byte fallback; ids equal those of the published `tokenization_baichuan.py`.

    Loads the published `tokenizer.model` and `tokenizer_config.json` (the fields `auto_map` and `use_fast` have no
    effect). By default, it adds neither bos nor eos.

    Args:
        vocab_file: Path of the SentencePiece model.
        unk_token, bos_token, eos_token, pad_token: Control pieces of that model; padding is `<unk>` (id 0),
            as in the published `tokenizer_config.json`.
        add_bos_token: Whether to add bos before every sequence.
        add_eos_token: Whether to add eos after every sequence.
        **kwargs: Arguments that every transformers tokenizer accepts.
    """

    model_input_names = ["input_ids", "attention_mask"]

    def __init__(
        self,
        vocab_file: str,
        *,
        unk_token: Any = "<unk>",  # noqa: S107 - a piece of the vocabulary, not a secret
        bos_token: Any = "<s>",  # noqa: S107
        eos_token: Any = "</s>",  # noqa: S107
        pad_token: Any = "<unk>",  # noqa: S107
        add_bos_token: bool = False,
        add_eos_token: bool = False,
        **kwargs: Any,
    ) -> None:
        for name in ("auto_map", "legacy"):  # the published class ignores `legacy`
            kwargs.pop(name, None)
        self.add_bos_token = add_bos_token
        self.add_eos_token = add_eos_token
        super().__init__(  # type: ignore[no-untyped-call] # untyped in transformers
            vocab_file=vocab_file,
            unk_token=unk_token,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            add_bos_token=add_bos_token,
            add_eos_token=add_eos_token,
            **kwargs,
        )

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of untrusted text; they never include a control id.

        `</s>`, `<reserved_106>` and the like are encoded as ordinary characters, so that the text of a message cannot
        end a turn or open another one. (The published code allows this.)

        Raises:
            TokenizerError: The text contains an unpaired surrogate, which cannot be encoded.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"character {error.start + 1} of the text is an unpaired surrogate; use the complete character"
            ) from error
        parts = _RESERVED_PIECE_SPLIT_PATTERN.split(text)
        return [piece_id for part in parts for piece_id in self.sp_model.encode(part)]

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a tokenizer as transformers does, and add the published template if a chat model has none.

        A byte order mark before a template is removed.
        """
        tokenizer = super().from_pretrained(*args, **kwargs)
        if isinstance(tokenizer.chat_template, str):
            tokenizer.chat_template = tokenizer.chat_template.removeprefix("\ufeff")
        if tokenizer.chat_template is None:
            tokenizer.chat_template = find_published_template(tokenizer)
        return tokenizer

    @cached_property
    def control_pieces(self) -> frozenset[str]:
        """Pieces of the SentencePiece model that a chat template may emit as control tokens."""
        model = self.sp_model
        pieces = ((token_id, model.IdToPiece(token_id)) for token_id in range(len(model)))
        return frozenset(
            piece
            for token_id, piece in pieces
            if model.IsControl(token_id) or model.IsUnknown(token_id) or _RESERVED_PIECE_PATTERN.fullmatch(piece)
        )

    def apply_chat_template(  # type: ignore[override] # the other parameters are passed on by name
        self,
        conversation: Any,
        tools: Any = None,
        documents: Any = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        **settings: Any,
    ) -> Any:
        """Render a chat with the template, as transformers does; the text of a message never produces control ids."""
        if settings.get("tokenize", True):
            pattern = build_control_pattern(self)
            conversation, tools, documents = (
                escape_control_pieces(value, pattern) for value in (conversation, tools, documents)
            )
            settings["tokenizer_kwargs"] = {**(settings.get("tokenizer_kwargs") or {}), "is_rendered_chat": True}
        return super().apply_chat_template(
            conversation, tools, documents, chat_template, add_generation_prompt, **settings
        )

    def tokenize(self, text: str, *args: Any, is_rendered_chat: bool = False, **kwargs: Any) -> list[str]:
        """Return the pieces of a text, or of a chat rendered by `apply_chat_template`."""
        if not is_rendered_chat:
            tokens: list[str] = super().tokenize(text, *args, **kwargs)
            return tokens
        pieces: list[str] = []
        for is_control, part in split_rendered_chat(text, build_control_pattern(self)):
            pieces += [part] if is_control else map(self.sp_model.IdToPiece, self.encode_text(part))
        return pieces

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        config: BaichuanConfig,
        settings: Mapping[str, Any],
        max_new_tokens: int,
    ) -> list[int]:
        """Return the ids of the prompt for the next answer.

        Args:
            messages: See `build_chat_prompt`.
            config: Configuration of the model.
            settings: Generation settings of the model, which may contain the ids of the tokens that open turns.
            max_new_tokens: Maximum length of the answer in tokens.

        Raises:
            PromptError: See `build_chat_prompt`.
        """
        return build_chat_prompt(
            self,
            messages,
            model_max_length=config.model_max_length or DEFAULT_CONTEXT_LENGTH,
            max_new_tokens=max_new_tokens,
            chat_format=choose_chat_format(self, config, settings),
        )

    def _convert_id_to_token(self, index: int) -> str:
        """Return the piece for an id, or an empty string for one of the surplus ids of a padded embedding."""
        return str(self.sp_model.IdToPiece(index)) if index < self.vocab_size else ""

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Return the text of `tokens`; as in the published class, text before a control piece starts with a space."""
        controls = set(self.all_special_tokens)
        runs = [(special, list(run)) for special, run in groupby(tokens, key=lambda token: token in controls)]
        text = ""
        for position, (special, run) in enumerate(runs):
            if special:
                text += "".join(run)
            else:
                text += " " * (position + 1 < len(runs)) + self.sp_model.decode(run)
        return text

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Join sequences, adding bos before and eos after each if the settings enable them."""
        sequences = [token_ids_0] if token_ids_1 is None else [token_ids_0, token_ids_1]
        before = [self.bos_token_id] if self.add_bos_token else []
        after = [self.eos_token_id] if self.add_eos_token else []
        return [token_id for sequence in sequences for token_id in (*before, *sequence, *after)]

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """Save as transformers does, and add `add_bos_token` and `add_eos_token`, which transformers omits."""
        files: tuple[str, ...] = super().save_pretrained(save_directory, *args, **kwargs)
        for file in map(Path, files):
            if file.name.endswith(TOKENIZER_CONFIG_FILE):
                settings = json.loads(file.read_text(encoding="utf-8"))
                settings |= {"add_bos_token": self.add_bos_token, "add_eos_token": self.add_eos_token}
                file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return files
