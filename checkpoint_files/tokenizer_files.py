"""Checks the files of a tokenizer, and that the model has an embedding row for every token."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from .chat_templates import check_chat_templates
from .errors import FileError
from .family import BAICHUAN1_VOCABULARY_SIZE, BAICHUAN2_VOCABULARY_SIZE
from .field_rules import NUMBER, SWITCH, Rule, check_fields, is_whole, show
from .json_files import read_object, reject_byte_order_mark
from .sentencepiece_model import read_pieces

SETTINGS, SPECIAL_TOKENS, ADDED_TOKENS = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
FAST_TOKENIZER = "tokenizer.json"
MODEL = "tokenizer.model"
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Default special tokens, for tokenizers whose files do not set them.
DEFAULT_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
MAX_FAST_TOKENIZER_BYTES = 2**26  # a vocabulary with its merges takes up to 20 MB
EXTRA_TOKENS = ("extra_special_tokens", "additional_special_tokens")


def _is_token(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, Mapping) and isinstance(value.get("content"), str))


def _is_typed_token(value: Any) -> bool:
    return _is_token(value) and (isinstance(value, str) or value.get("__type") == "AddedToken")


def _is_tokens(value: Any) -> bool:
    items = value.values() if isinstance(value, Mapping) else value
    return isinstance(value, list | Mapping) and all(map(_is_token, items))


def _is_id(value: Any) -> bool:
    return is_whole(value) and value >= 0


def _is_added_token(token: Mapping[str, Any]) -> bool:
    return isinstance(token.get("content"), str) and _is_id(token.get("id"))


_ID = Rule(_is_id, "a token id (an integer of at least 0)", nullable=False)
_TOKENS = dict.fromkeys(EXTRA_TOKENS, Rule(_is_tokens, "a list of strings"))
_SPECIAL_TOKENS_RULES = _TOKENS | dict.fromkeys(
    NAMED_TOKENS, Rule(_is_token, "a string, or an object with the string as content")
)
_SETTINGS_RULES = _TOKENS | {
    **dict.fromkeys(
        NAMED_TOKENS,
        Rule(_is_typed_token, 'a string, or an object with "__type": "AddedToken" and the string as content'),
    ),
    "add_bos_token": SWITCH,
    "add_eos_token": SWITCH,
    "model_max_length": NUMBER,
    "added_tokens_decoder": Rule(
        lambda value: (
            isinstance(value, Mapping)
            and all(key.isascii() and key.isdigit() for key in value)
            and all(isinstance(token, Mapping) and _is_token(token) for token in value.values())
        ),
        "an object that maps ids to tokens",
        nullable=False,
    ),
}


def check_tokenizer_files(folder: Path, vocab_size: int) -> None:
    """Check whichever files of a tokenizer exist.

    Args:
        folder: Directory of the tokenizer.
        vocab_size: Number of rows of the model's embedding.

    Raises:
        FileError: A file is damaged or begins with a byte order mark, a setting has an invalid value, a chat template
            is not valid Jinja, or there are more tokens than rows. A padding token without a row is accepted.
    """
    settings = _read(folder / SETTINGS, _SETTINGS_RULES)
    special = _read(folder / SPECIAL_TOKENS, _SPECIAL_TOKENS_RULES)
    by_name = _read(folder / ADDED_TOKENS)
    check_chat_templates(folder, settings)
    if (folder / MODEL).exists():  # operations that need a tokenizer report that it is missing
        _check_rows(folder, settings, special, by_name, vocab_size)


def _check_rows(
    folder: Path, settings: Mapping[str, Any], special: Mapping[str, Any], by_name: Mapping[str, int], vocab_size: int
) -> None:
    pieces = read_pieces(folder / MODEL)
    effective = settings if "added_tokens_decoder" in settings else {**settings, **special}
    padding = _text({**DEFAULT_TOKENS, **effective}["pad_token"] or "")
    if len(pieces) > vocab_size or (len(pieces), vocab_size) == (BAICHUAN1_VOCABULARY_SIZE, BAICHUAN2_VOCABULARY_SIZE):
        raise FileError(
            f"{folder / MODEL} has {len(pieces)} pieces, but vocab_size in config.json is {vocab_size}: "
            "use the tokenizer that belongs to these weights"
        )
    for token, token_id in _find_added_tokens(folder, settings, special, by_name, pieces).items():
        if token_id >= vocab_size and token != padding:
            raise FileError(missing_row_message(folder, token, token_id, vocab_size))


def missing_row_message(folder: Path, token: str, token_id: int, vocab_size: int) -> str:
    """Return the message for a token that the model has no embedding for."""
    return (
        f"the tokenizer in {folder} has the added token {show(token)} with id {token_id}, but vocab_size in "
        f"config.json is {vocab_size}: use the tokenizer that belongs to these weights, or remove the token from its "
        "JSON files"
    )


def _find_added_tokens(
    folder: Path,
    settings: Mapping[str, Any],
    special: Mapping[str, Any],
    by_name: Mapping[str, int],
    pieces: Collection[str],
) -> dict[str, int]:
    """Return the ids of added tokens as transformers assigns them, including special tokens that are not pieces."""
    named = settings
    if (decoder := settings.get("added_tokens_decoder")) is not None:
        # Sorted, so that the larger id is checked if a token has two.
        ids = {decoder[token_id]["content"]: int(token_id) for token_id in sorted(decoder, key=int)}
    else:  # transformers reads the other files only in this case
        named = {**special, **settings}
        # Unlike single tokens, lists in the settings take precedence over those in the other files.
        lists = {name: settings[name] for name in EXTRA_TOKENS if name in settings}
        settings, ids = {**settings, **special, **lists}, {**by_name, **_read_fast_tokens(folder / FAST_TOKENIZER)}
    known = set(pieces)
    free = len(known | set(ids))
    for token in _list_special_tokens({**DEFAULT_TOKENS, **settings}, named):
        if token and token not in known and token not in ids:
            ids[token] = free
            free += 1
    _reject_equal_ids(folder, ids)
    return ids


def _reject_equal_ids(folder: Path, ids: Mapping[str, int]) -> None:
    """Raise FileError if two tokens have the same id, which transformers may assign if the added ids have gaps."""
    by_id: dict[int, str] = {}
    for token, token_id in ids.items():
        if (other := by_id.setdefault(token_id, token)) != token:
            raise FileError(
                f"the tokens {show(other)} and {show(token)} of the tokenizer in {folder} both get the id {token_id}: "
                f"set the ids of both in {ADDED_TOKENS}"
            )


def _list_special_tokens(settings: Mapping[str, Any], named: Mapping[str, Any]) -> Iterator[str]:
    yield from (_text(settings.get(name) or "") for name in NAMED_TOKENS)
    for name in EXTRA_TOKENS:
        value = settings.get(name) or ()
        yield from map(_text, value.values() if isinstance(value, Mapping) else value)
    own = (name for name in named if name.endswith("_token") and name not in NAMED_TOKENS)
    yield from (named[name] for name in own if isinstance(named[name], str))


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, Mapping) else token)


def _read_fast_tokens(file: Path) -> dict[str, int]:
    """Return the added tokens of a `tokenizer.json`, a file that other tools write; its vocabulary is not used."""
    if not file.exists():
        return {}
    tokens = read_object(file, max_bytes=MAX_FAST_TOKENIZER_BYTES).get("added_tokens")
    if not isinstance(tokens, list) or not all(isinstance(one, Mapping) and _is_added_token(one) for one in tokens):
        raise FileError(
            f"{file} has no list added_tokens with id and content: remove the file, tokenizer.model is enough"
        )
    return {token["content"]: token["id"] for token in tokens}


def _read(file: Path, rules: Mapping[str, Rule] | None = None) -> dict[str, Any]:
    """Return the content of a file that transformers also reads; without rules, all values must be ids."""
    if not file.exists():
        return {}
    content = read_object(file)
    reject_byte_order_mark(file)
    try:
        check_fields(content, dict.fromkeys(content, _ID) if rules is None else rules)
    except FileError as fault:
        raise FileError(f"{file} cannot be used: {fault}") from None
    return content
