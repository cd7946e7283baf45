"""Tokenizers whose files are damaged, contradict each other or have more tokens than the model has embeddings."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from baichuan_core.tokenizer import BaichuanTokenizer
from checkpoint_files import FileError, check_directory, check_tokenizer_files
from tests.model_files import write_model_files, write_pieces

GOLDEN = Path(__file__).parents[1] / "golden" / "chat" / "tokenizer.model"
PIECES = 760
SETTINGS, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
TOO_MANY = {f"<{number}>": number for number in range(3, 17)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model_files(tmp_path)  # 3 pieces, 16 embeddings
    return tmp_path


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (SETTINGS, {"chat_template": TEMPLATE}),
        (SETTINGS, {"chat_template": [{"name": "default", "template": TEMPLATE}, {"name": "rag", "template": ""}]}),
        (SETTINGS, {"chat_template": None, "pad_token": None, "add_bos_token": 0, "model_max_length": 1e30}),
        (SETTINGS, {"added_tokens_decoder": {"15": {"content": "<last>"}}}),
        (SETTINGS, {"pad_token": "[PAD]", "additional_special_tokens": ["<a>", "<b>"]}),
        (SETTINGS, {"added_tokens_decoder": {"16": {"content": "[PAD]"}}, "pad_token": "[PAD]"}),
        (ADDED, {"<a>": 3}),
        ("chat_template.jinja", "{% generation %}{% for m in messages %}{% continue %}{% endfor %}{% endgeneration %}"),
        ("chat_template.jinja", "{{ messages | tojson(indent=2) }}{{ strftime_now('%d') }}{{ raise_exception('no') }}"),
        ("additional_chat_templates/rag.jinja", TEMPLATE),
    ],
)
def test_usual_tokenizers_are_accepted(folder: Path, name: str, content: Any) -> None:
    write(folder, name, content)
    check_directory(folder)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (SETTINGS, {"chat_template": "{% for m in messages %}"}, r"line 1: Unexpected end of template.*correct or"),
        (SETTINGS, {"chat_template": "{{ messages | no_such }}"}, r"line 1: no filter named 'no_such'"),
        (SETTINGS, {"chat_template": "\n{{ 1 is no_such }}"}, r"line 2: no test named 'no_such'"),
        (SETTINGS, {"chat_template": "{{ }}"}, r"chat_template in .*tokenizer_config.json is not a valid Jinja"),
        (SETTINGS, {"chat_template": {"default": "{{"}}, r"'default' of chat_template in .* is not a valid Jinja"),
        (SETTINGS, {"chat_template": [{"name": "rag", "template": "{{"}]}, r"'rag' of chat_template in .* is not"),
        (SETTINGS, {"chat_template": 5}, r"chat_template is 5: set it to a Jinja template"),
        (SETTINGS, {"chat_template": ["{{ 1 }}"]}, r"set it to a Jinja template, or a list of objects with name"),
        (SETTINGS, {"chat_template": "(" * 5 + "{{" + "(" * 5000}, r"is not a valid Jinja template|nested too deeply"),
        (SETTINGS, f"\ufeff{json.dumps({'chat_template': TEMPLATE})}", r"tokenizer_config.json begins with a byte"),
        ("chat_template.jinja", "{% endif %}", r"chat_template.jinja is not a valid Jinja template"),
        ("chat_template.jinja", f"\ufeff{TEMPLATE}", r"chat_template.jinja begins with a byte order mark"),
        ("additional_chat_templates/rag.jinja", "{{", r"rag.jinja is not a valid Jinja template"),
        (
            SETTINGS,
            {"add_bos_token": "false"},
            r"tokenizer_config.json .*add_bos_token is 'false': set it to true or false",
        ),
        (SETTINGS, {"model_max_length": "4096"}, r"model_max_length is '4096': set it to a number"),
        (SETTINGS, {"bos_token": 1}, r"bos_token is 1: set it to a string"),
        (
            SETTINGS,
            {"bos_token": {"content": "<s>"}},
            r"bos_token is .*: set it to a string, or an object with",
        ),
        (SETTINGS, {"added_tokens_decoder": [1]}, r"added_tokens_decoder is \[1\]"),
        (SETTINGS, {"added_tokens_decoder": {"-1": {"content": "<a>"}}}, r"an object that maps ids to tokens"),
        (
            SETTINGS,
            {"added_tokens_decoder": {"16": {"content": "<a>"}}},
            r"added token '<a>' with id 16, but vocab_size",
        ),
        (SETTINGS, {"additional_special_tokens": list(TOO_MANY)}, r"added token '<16>' with id 16"),
        (SETTINGS, {"extra_special_tokens": {"a_token": 5}}, r"set it to a list of strings"),
        (MAP, {"additional_special_tokens": list(TOO_MANY)}, r"added token '<16>' with id 16"),
        (ADDED, {"<a>": "16"}, r"added_tokens.json .*<a> is '16': set it to a token id"),
        (ADDED, {"<a>": 5, "<b>": 5}, r"the tokens '<a>' and '<b>' of the tokenizer in .* both get the id 5"),
        (ADDED, TOO_MANY, r"the added token '<16>' with id 16, but vocab_size in config.json is 16"),
        ("tokenizer.json", {"added_tokens": [{"id": 16, "content": "<a>"}]}, r"added token '<a>' with id 16"),
        ("tokenizer.json", {"version": "1.0"}, r"tokenizer.json has no list added_tokens"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_rejected(folder: Path, name: str, content: Any, says: str) -> None:
    write(folder, name, content)
    with pytest.raises(FileError, match=says):
        check_directory(folder)


def test_a_template_that_is_not_utf8_is_rejected(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes("用户".encode("gbk"))
    with pytest.raises(FileError, match=r"chat_template.jinja is not UTF-8 \(byte 1\)"):
        check_directory(folder)


def test_more_pieces_than_embeddings_are_rejected(folder: Path) -> None:
    write_pieces(folder / "tokenizer.model", *(str(number) for number in range(17)))
    with pytest.raises(FileError, match=r"tokenizer.model has 17 pieces, but vocab_size in config.json is 16"):
        check_directory(folder)


def test_the_tokenizer_of_the_other_family_is_rejected(folder: Path) -> None:
    write_pieces(folder / "tokenizer.model", "<unk>", "<s>", "</s>", *map(str, range(63_997)))
    check_tokenizer_files(folder, 64_000)
    with pytest.raises(FileError, match=r"tokenizer.model has 64000 pieces, but vocab_size in config.json is 125696"):
        check_tokenizer_files(folder, 125_696)


def test_a_gguf_directory_is_checked_too(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.gguf").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(FileError, match=r"model.gguf is a git-LFS pointer"):
        check_directory(folder)
    (folder / "model.gguf").write_bytes(b"GGML")
    with pytest.raises(FileError, match=r"model.gguf is not a GGUF file"):
        check_directory(folder)
    (folder / "model.gguf").write_bytes(b"GGUF")
    check_directory(folder)
    write(folder, ADDED, TOO_MANY)
    with pytest.raises(FileError, match=r"added token '<16>'"):
        check_directory(folder)


tokens = st.sampled_from(["<a>", "<b>", "<c>", "<unk>", "</s>", "[PAD]", "的"])
objects = st.fixed_dictionaries({"content": tokens, "__type": st.just("AddedToken")})
special = st.fixed_dictionaries(
    {},
    optional={
        "pad_token": tokens | objects | st.none(),
        "cls_token": tokens,
        "my_token": tokens,
        "additional_special_tokens": st.lists(tokens, max_size=3),
    },
)
ids = st.integers(PIECES, PIECES + 9)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(
    special,
    special,
    st.dictionaries(st.sampled_from(["<a>", "<b>", "<c>", "[PAD]"]), ids, max_size=3),
    st.none() | st.dictionaries(ids.map(str), st.fixed_dictionaries({"content": tokens}), max_size=3),
)
def test_the_ids_are_those_that_transformers_assigns(
    tmp_path: Path,
    config: dict[str, Any],
    special_map: dict[str, Any],
    added: dict[str, int],
    decoder: dict[str, Any] | None,
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(GOLDEN.read_bytes())
    write(tmp_path, SETTINGS, config if decoder is None else {**config, "added_tokens_decoder": decoder})
    write(tmp_path, MAP, special_map)
    write(tmp_path, ADDED, added)
    tokenizer = BaichuanTokenizer.from_pretrained(tmp_path)
    others = {
        token_id for token_id, token in tokenizer.added_tokens_decoder.items() if str(token) != tokenizer.pad_token
    }
    needed = max(PIECES, *(token_id + 1 for token_id in others))
    try:
        check_tokenizer_files(tmp_path, needed)
    except FileError as error:
        assume("both get the id" not in str(error))
        raise
    with pytest.raises(FileError, match="but vocab_size in"):
        check_tokenizer_files(tmp_path, needed - 1)
