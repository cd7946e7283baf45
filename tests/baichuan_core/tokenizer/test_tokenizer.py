"""The tokenizer against the ids of the published class, and its use in transformers."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

import baichuan_core  # noqa: F401 - registers the classes
from baichuan_core.errors import TokenizerError
from baichuan_core.tokenizer import BaichuanTokenizer

CHAT = Path(__file__).parents[2] / "golden" / "chat"
CASES: list[dict[str, Any]] = json.loads((CHAT / "tokenizer_cases.json").read_text())
PUBLISHED_TOKENIZER_CONFIG = {
    "add_bos_token": False,
    "add_eos_token": False,
    "auto_map": {"AutoTokenizer": ["tokenization_baichuan.BaichuanTokenizer", None]},
    "clean_up_tokenization_spaces": False,
    "model_max_length": 4096,
    "sp_model_kwargs": {},
    "tokenizer_class": "BaichuanTokenizer",
    "use_fast": False,
    **{
        f"{name}_token": {
            "__type": "AddedToken",
            "content": content,
            "lstrip": False,
            "normalized": True,
            "rstrip": False,
            "single_word": True,
        }
        for name, content in {"bos": "<s>", "eos": "</s>", "pad": "<unk>", "unk": "<unk>"}.items()
    },
}


@pytest.fixture(scope="module")
def tokenizer() -> BaichuanTokenizer:
    return BaichuanTokenizer(str(CHAT / "tokenizer.model"))


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A directory with the tokenizer files of a published checkpoint."""
    shutil.copy(CHAT / "tokenizer.model", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(PUBLISHED_TOKENIZER_CONFIG))
    (tmp_path / "config.json").write_text((CHAT.parent / "baichuan2-7b" / "config.json").read_text())
    return tmp_path


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case["text"][:16]))
def test_equals_the_published_tokenizer(tokenizer: BaichuanTokenizer, case: dict[str, Any]) -> None:
    encoded = tokenizer(case["text"])
    assert encoded["input_ids"] == case["ids"]
    assert encoded["attention_mask"] == case["attention_mask"]
    assert tokenizer.tokenize(case["text"]) == case["tokens"]
    assert tokenizer.decode(case["ids"]) == case["decoded"]
    assert tokenizer.decode(case["ids"], skip_special_tokens=True) == case["decoded_skip_special"]


def test_published_files_load_through_auto_tokenizer_without_remote_code(published: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(published)
    assert type(tokenizer) is BaichuanTokenizer
    assert tokenizer.model_max_length == 4096
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    for case in CASES:
        if "<" not in case["text"]:  # single_word, as published, keeps control pieces inside words as text
            assert tokenizer.encode(case["text"]) == case["ids"]


@pytest.mark.parametrize("name", ["BaichuanTokenizer", "BaiChuanTokenizer", None])
@pytest.mark.parametrize("trust", [True, False, None])
def test_code_of_a_repository_never_runs(published: Path, name: str | None, trust: bool | None) -> None:
    (published / "tokenization_baichuan.py").write_text("raise SystemExit('the code of the repository ran')")
    file = published / "tokenizer_config.json"
    if name is None:
        file.unlink()
    else:
        auto_map = {"AutoTokenizer": [f"tokenization_baichuan.{name}", None]}
        file.write_text(json.dumps({**PUBLISHED_TOKENIZER_CONFIG, "tokenizer_class": name, "auto_map": auto_map}))
    flag = {} if trust is None else {"trust_remote_code": trust}
    tokenizer = AutoTokenizer.from_pretrained(published, **flag)
    assert type(tokenizer) is BaichuanTokenizer
    assert tokenizer.encode("hello") == BaichuanTokenizer(str(CHAT / "tokenizer.model")).encode("hello")


@pytest.mark.parametrize(
    "name", [None, "BaichuanTokenizer2", "BaichuanTokenizerFast", "PreTrainedTokenizer", "LlamaTokenizer"]
)
@pytest.mark.parametrize("trust", [True, False, None])
@pytest.mark.parametrize("auto_map", [{"AutoTokenizer": ["own.Own", None]}, ["own.Own", None], None])
def test_code_never_runs_under_another_class_name(
    published: Path, name: str | None, trust: bool | None, auto_map: object
) -> None:
    (published / "own.py").write_text("raise SystemExit('the code of the repository ran')")
    settings = {**PUBLISHED_TOKENIZER_CONFIG, "tokenizer_class": name, "auto_map": auto_map}
    kept = {key: value for key, value in settings.items() if value is not None}
    (published / "tokenizer_config.json").write_text(json.dumps(kept))
    flag = {} if trust is None else {"trust_remote_code": trust}
    assert type(AutoTokenizer.from_pretrained(published, **flag)) is BaichuanTokenizer


@pytest.mark.parametrize("name", ["BaichuanTokenizer", "BaiChuanTokenizer", None])
@pytest.mark.parametrize("trust", [True, False])
@pytest.mark.parametrize("listed", [True, False])
def test_code_never_runs_in_a_tokenizer_without_a_model(
    published: Path, name: str | None, trust: bool, listed: bool
) -> None:
    (published / "config.json").unlink()
    (published / "tokenization_baichuan.py").write_text("raise SystemExit('the code of the repository ran')")
    code = ["tokenization_baichuan.BaichuanTokenizer", None]
    settings = {**PUBLISHED_TOKENIZER_CONFIG, "auto_map": code if listed else {"AutoTokenizer": code}}
    (published / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": name}))
    assert type(AutoTokenizer.from_pretrained(published, trust_remote_code=trust)) is BaichuanTokenizer


def test_settings_that_the_published_class_does_not_know_have_no_effect(published: Path) -> None:
    file = published / "tokenizer_config.json"
    file.write_text(json.dumps({**PUBLISHED_TOKENIZER_CONFIG, "legacy": False}))
    (published / "chat_template.jinja").write_text("\ufeff{{ messages }}", encoding="utf-8")
    loaded = AutoTokenizer.from_pretrained(published)
    assert loaded.chat_template == "{{ messages }}"
    assert loaded.encode("hello") == BaichuanTokenizer(str(CHAT / "tokenizer.model")).encode("hello")


def test_save_and_load_keep_everything(published: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(published, add_eos_token=True)
    again = tmp_path / "again"
    tokenizer.save_pretrained(again)
    saved = json.loads((again / "tokenizer_config.json").read_text())
    assert saved["tokenizer_class"] == "BaichuanTokenizer"
    assert "auto_map" not in saved
    assert (again / "tokenizer.model").read_bytes() == (CHAT / "tokenizer.model").read_bytes()
    (again / "config.json").write_text((published / "config.json").read_text())
    loaded = AutoTokenizer.from_pretrained(again)
    for case in CASES:
        assert loaded.encode(case["text"]) == tokenizer.encode(case["text"])
    assert loaded.encode("a") == [596, 2]


def test_pickle_keeps_the_ids(tokenizer: BaichuanTokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))  # noqa: S301 - our own bytes
    assert copy.encode("hello world") == tokenizer.encode("hello world")


def test_bos_and_eos_surround_the_sequence_on_request() -> None:
    tokenizer = BaichuanTokenizer(str(CHAT / "tokenizer.model"), add_bos_token=True, add_eos_token=True)
    assert tokenizer.encode("a") == [1, 596, 2]
    assert tokenizer.encode("a", add_special_tokens=False) == [596]
    assert tokenizer("a", "a")["input_ids"] == [1, 596, 2, 1, 596, 2]


def test_padding_is_on_the_right_with_id_zero(tokenizer: BaichuanTokenizer) -> None:
    batch = tokenizer(["a", "aaa"], padding=True)
    assert batch["input_ids"] == [[596, 0, 0], [596, 596, 596]]
    assert batch["attention_mask"] == [[1, 0, 0], [1, 1, 1]]


FRAGMENTS = st.sampled_from(
    ["<s>", "</s>", "<unk>", "<reserved_192>", "<reserved_193>", "<", ">", "<reserved_", "a", " "]
)


@given(st.lists(FRAGMENTS | st.text(), max_size=8).map("".join))
def test_text_is_never_encoded_to_control_ids_and_decodes_to_itself(tokenizer: BaichuanTokenizer, text: str) -> None:
    ids = tokenizer.encode_text(text)
    assert all(token_id >= 211 for token_id in ids)  # 3 to 210 are reserved pieces in this vocabulary
    if "▁" not in text:  # SentencePiece's own sign for the space
        assert tokenizer.decode(ids) == text


def test_half_a_surrogate_pair_is_an_error(tokenizer: BaichuanTokenizer) -> None:
    with pytest.raises(TokenizerError, match="character 2"):
        tokenizer.encode_text("a\ud83d")


def test_the_class_name_of_the_first_7b_loads_too(published: Path) -> None:
    settings = {key: value for key, value in PUBLISHED_TOKENIZER_CONFIG.items() if key != "pad_token"}
    settings |= {"tokenizer_class": "BaiChuanTokenizer", "model_max_length": 10**30}
    settings["auto_map"] = {"AutoTokenizer": ["tokenization_baichuan.BaiChuanTokenizer", None]}
    (published / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = AutoTokenizer.from_pretrained(published)
    assert type(tokenizer) is BaichuanTokenizer
    assert tokenizer.pad_token_id == 0


def test_ids_of_a_padded_embedding_table_have_no_text(tokenizer: BaichuanTokenizer) -> None:
    assert tokenizer.decode([596, tokenizer.vocab_size, tokenizer.vocab_size + 5, 596]) == "aa"
