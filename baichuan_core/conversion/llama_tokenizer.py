"""The tokenizer in the form of the `tokenizers` library, which loads everywhere without code of its own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from baichuan_core.checkpoint import load_tokenizer
from baichuan_core.errors import TokenizerError
from baichuan_core.tokenizer import BaichuanTokenizer

from .pieces import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Piece, read_pieces

SPACE = "\u2581"


def write_llama_tokenizer(checkpoint: Path, directory: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, which give the ids that Baichuan's tokenizer gives.

    Raises:
        TokenizerError: The tokenizer is missing, damaged or does not fit the model.
    """
    tokenizer = load_tokenizer(checkpoint)
    held = read_pieces(checkpoint / "tokenizer.model")
    if held.add_dummy_prefix:
        raise TokenizerError(
            f"{checkpoint / 'tokenizer.model'} puts a space before every text, as no tokenizer of the Baichuan family "
            "does: use the one that belongs to the model"
        )
    fast = _bpe(held.pieces)
    fast.add_special_tokens([_added(piece) for piece in held.pieces if piece.kind in (UNKNOWN, CONTROL)])
    fast.add_tokens([_added(piece) for piece in held.pieces if piece.kind == USER_DEFINED])
    for token_id, added in sorted(tokenizer.added_tokens_decoder.items()):
        if token_id >= len(held.pieces):
            (fast.add_special_tokens if added.special else fast.add_tokens)([added])
    _add_ends(fast, tokenizer)
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


def _bpe(pieces: list[Piece]) -> Tokenizer:
    vocabulary = {piece.text.decode(): token_id for token_id, piece in enumerate(pieces)}
    unknown = next((piece.text.decode() for piece in pieces if piece.kind == UNKNOWN), None)
    fast = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=list(_merges(pieces)),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=any(piece.kind == BYTE for piece in pieces),
        )
    )
    fast.normalizer = normalizers.Replace(" ", SPACE)
    fast.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return fast


def _merges(pieces: list[Piece]) -> Iterator[tuple[str, str]]:
    """Every pair whose union is a piece, the pieces of higher score first: what SentencePiece merges first."""
    ids = {piece.text.decode(): token_id for token_id, piece in enumerate(pieces) if piece.kind == NORMAL}
    for text in sorted(ids, key=lambda text: (-pieces[ids[text]].score, ids[text])):
        halves = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
        pairs = [(left, right) for left, right in halves if left in ids and right in ids]
        yield from sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))


def _added(piece: Piece) -> AddedToken:
    """Pieces that are found before anything is merged; those of spaces too, hence after normalisation."""
    special = piece.kind != USER_DEFINED
    return AddedToken(piece.text.decode(), special=special, normalized=not special)


def _add_ends(fast: Tokenizer, tokenizer: BaichuanTokenizer) -> None:
    """bos before and eos behind every sequence, where they are switched on."""
    before = [str(tokenizer.bos_token)] if tokenizer.add_bos_token else []
    after = [str(tokenizer.eos_token)] if tokenizer.add_eos_token else []
    if before or after:
        special = [(token, fast.token_to_id(token)) for token in (*before, *after)]
        first, second = ([*before, f"${letter}", *after] for letter in "AB")
        fast.post_processor = processors.TemplateProcessing(
            single=first, pair=[*first, *(f"{part}:1" for part in second)], special_tokens=special
        )
