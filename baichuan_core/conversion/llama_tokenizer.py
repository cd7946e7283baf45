"""Converts the tokenizer to the format of the `tokenizers` library, which can be loaded without custom code."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from baichuan_core.checkpoint import load_tokenizer
from baichuan_core.errors import TokenizerError
from baichuan_core.tokenizer import BaichuanTokenizer

from .pieces import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Piece, read_vocabulary

SPACE_SYMBOL = "\u2581"


def write_llama_tokenizer(checkpoint: Path, directory: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` for a tokenizer with the same token ids as Baichuan's.

    Raises:
        TokenizerError: The tokenizer is missing, damaged or does not match the model.
    """
    tokenizer = load_tokenizer(checkpoint)
    vocabulary = read_vocabulary(checkpoint / "tokenizer.model")
    if vocabulary.add_dummy_prefix:
        raise TokenizerError(
            f"{checkpoint / 'tokenizer.model'} adds a space before every text, unlike all tokenizers of the Baichuan "
            "family: use the one that belongs to the model"
        )
    fast = _build_bpe(vocabulary.pieces)
    fast.add_special_tokens([_build_token(piece) for piece in vocabulary.pieces if piece.kind in (UNKNOWN, CONTROL)])
    fast.add_tokens([_build_token(piece) for piece in vocabulary.pieces if piece.kind == USER_DEFINED])
    for token_id, added in sorted(tokenizer.added_tokens_decoder.items()):
        if token_id >= len(vocabulary.pieces):
            (fast.add_special_tokens if added.special else fast.add_tokens)([added])
    _add_bos_and_eos(fast, tokenizer)
    fast.save(str(directory / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": tokenizer.model_max_length,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        **{name: str(token) for name, token in tokenizer.special_tokens_map.items()},
    }
    if tokenizer.chat_template is not None:
        settings["chat_template"] = tokenizer.chat_template
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _build_bpe(pieces: list[Piece]) -> Tokenizer:
    vocabulary = {piece.text.decode(): token_id for token_id, piece in enumerate(pieces)}
    unknown = next((piece.text.decode() for piece in pieces if piece.kind == UNKNOWN), None)
    fast = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=list(_iterate_merges(pieces)),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=any(piece.kind == BYTE for piece in pieces),
        )
    )
    fast.normalizer = normalizers.Replace(" ", SPACE_SYMBOL)
    fast.decoder = decoders.Sequence([decoders.Replace(SPACE_SYMBOL, " "), decoders.ByteFallback(), decoders.Fuse()])
    return fast


def _iterate_merges(pieces: list[Piece]) -> Iterator[tuple[str, str]]:
    """Yield every pair of pieces that merges into a third piece, in SentencePiece's order: higher scores first."""
    ids = {piece.text.decode(): token_id for token_id, piece in enumerate(pieces) if piece.kind == NORMAL}
    for text in sorted(ids, key=lambda text: (-pieces[ids[text]].score, ids[text])):
        halves = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
        pairs = [(left, right) for left, right in halves if left in ids and right in ids]
        yield from sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))


def _build_token(piece: Piece) -> AddedToken:
    """Return an added token, which is matched before merging.

    User-defined pieces are matched after normalization, which replaces spaces, because some consist of spaces.
    """
    special = piece.kind != USER_DEFINED
    return AddedToken(piece.text.decode(), special=special, normalized=not special)


def _add_bos_and_eos(fast: Tokenizer, tokenizer: BaichuanTokenizer) -> None:
    """Make `fast` add bos before and eos after every sequence, if the settings of `tokenizer` enable them."""
    before = [str(tokenizer.bos_token)] if tokenizer.add_bos_token else []
    after = [str(tokenizer.eos_token)] if tokenizer.add_eos_token else []
    if before or after:
        special = [(token, fast.token_to_id(token)) for token in (*before, *after)]
        first, second = ([*before, f"${letter}", *after] for letter in "AB")
        fast.post_processor = processors.TemplateProcessing(
            single=first, pair=[*first, *(f"{part}:1" for part in second)], special_tokens=special
        )
