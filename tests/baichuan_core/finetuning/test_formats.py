"""Every format of training data: equal conversations, errors with line numbers, and examples without answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from baichuan_core.errors import DatasetError
from baichuan_core.finetuning.data import load_training_data
from baichuan_core.finetuning.formats import ConversationFile, read_conversations
from baichuan_core.tokenizer import BaichuanTokenizer, ChatFormat

CHAT = Path(__file__).parents[2] / "golden" / "chat"
TURNS = ((True, "hi\nthere"), (False, "yes"))


@pytest.fixture(scope="module")
def tokenizer() -> BaichuanTokenizer:
    return BaichuanTokenizer(str(CHAT / "tokenizer.model"))


def write(directory: Path, *examples: Any) -> Path:
    path = directory / "data.jsonl"
    path.write_text("\n".join(json.dumps(example) for example in examples))
    return path


def sharegpt(*turns: tuple[str, str], **keys: Any) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": text} for role, text in turns], **keys}


def openai(*turns: tuple[str, str], **keys: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in turns], **keys}


@pytest.mark.parametrize(
    ("example", "name", "system"),
    [
        (sharegpt(("human", "hi\nthere"), ("gpt", "yes"), id="0"), "published", None),
        (sharegpt(("human", "hi\nthere"), ("gpt", "yes"), system="Be kind."), "sharegpt", "Be kind."),
        (sharegpt(("system", "Be kind."), ("user", "hi\nthere"), ("assistant", "yes")), "sharegpt", "Be kind."),
        (openai(("user", "hi\nthere"), ("assistant", "yes")), "openai", None),
        (openai(("system", "Be kind."), ("user", "hi\nthere"), ("assistant", "yes")), "openai", "Be kind."),
        ({"instruction": "hi", "input": "there", "output": "yes"}, "alpaca", None),
        ({"instruction": "hi\nthere", "input": "", "output": "yes", "system": "Be kind."}, "alpaca", "Be kind."),
    ],
)
def test_each_format_is_detected_and_read(tmp_path: Path, example: Any, name: str, system: str | None) -> None:
    data = ConversationFile(write(tmp_path, example))
    assert [(one.turns, one.system) for one in data] == [(TURNS, system)]
    assert data.format == name


def test_alpaca_history_comes_before_the_instruction(tmp_path: Path) -> None:
    example = {"instruction": "c", "output": "d", "history": [["a", "b"]]}
    (read,) = read_conversations(write(tmp_path, example))
    assert read.turns == ((True, "a"), (False, "b"), (True, "c"), (False, "d"))


def test_a_system_message_is_read_and_not_learned(tokenizer: BaichuanTokenizer, tmp_path: Path) -> None:
    example = openai(("system", "Be kind."), ("user", "hi"), ("assistant", "yes"))
    (encoded,) = load_training_data(tokenizer, write(tmp_path, example), max_length=64).examples
    system = tokenizer.encode_text("Be kind.")
    assert encoded.input_ids == [
        *system, 195, *tokenizer.encode_text("hi"), 196, *tokenizer.encode_text("yes"), 2
    ]  # fmt: skip
    assert encoded.labels[: len(system)] == [-100] * len(system)
    with pytest.raises(DatasetError, match=r"line 1 \(example 1\): message 1 has role .system."):
        load_training_data(
            tokenizer, tmp_path / "data.jsonl", max_length=64, chat_format=ChatFormat(style="baichuan1-13b")
        )


@pytest.mark.parametrize("as_json", [False, True])
def test_text_is_learned_as_a_whole_in_chunks(tokenizer: BaichuanTokenizer, tmp_path: Path, as_json: bool) -> None:
    text = "The moon is far away. " * 9
    path = write(tmp_path, {"text": text.strip()})
    if not as_json:
        path = tmp_path / "data.txt"
        path.write_text(f"\n{text}\n")
    data = load_training_data(tokenizer, path, max_length=16)
    ids = [*tokenizer.encode_text(text.strip()), 2]
    assert data.format == "text"
    assert [token for example in data.examples for token in example.input_ids] == ids
    assert all(example.labels == example.input_ids for example in data.examples)
    assert {len(example.input_ids) for example in data.examples[:-1]} == {16}


@pytest.mark.parametrize(
    "example",
    [
        sharegpt(("human", "hi")),
        sharegpt(("system", "Be kind."), ("human", "hi")),
        openai(("user", "hi")),
        openai(("user", "hi"), ("assistant", "")),
        {"instruction": "hi"},
        {"text": ""},
    ],
)
def test_an_example_without_an_answer_is_dropped_and_counted(
    tokenizer: BaichuanTokenizer, tmp_path: Path, example: dict[str, Any]
) -> None:
    same = {"text": "hi there"} if "text" in example else {"instruction": "hi", "output": "yes"}
    if "messages" in example or "conversations" in example:
        turns = [("human", "hi"), ("gpt", "yes")] if "conversations" in example else [("user", "x"), ("assistant", "y")]
        same = (sharegpt if "conversations" in example else openai)(*turns)
    data = load_training_data(tokenizer, write(tmp_path, example, same, example), max_length=32)
    assert (len(data.examples), data.dropped) == (1, 2)


GOOD = openai(("user", "hi"), ("assistant", "yes"))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"prompt": "x"}, r"line 2 \(example 2\) has no turns; it needs one of the keys 'conversations'"),
        ({"text": "x"}, "line 2 .* is in the format 'text', but earlier lines are in 'openai'"),
        (openai(("user", "hi"), extra=1), "line 2 .* has the unknown key 'extra'; remove it"),
        (openai(("robot", "hi")), "line 2 .*, turn 1 has the unknown role 'robot'; use 'system', 'user'"),
        (openai(("user", "hi"), ("system", "x")), "line 2 .*, turn 2 is a system message; only the first"),
        ({"messages": []}, "line 2 .* has no messages"),
        ({"messages": [{"role": "user"}]}, "line 2 .*, turn 1 needs both 'role' and 'content'"),
        ({"messages": [{"role": "user", "content": [1]}]}, "line 2 .* has a 'content' that is not a string"),
    ],
)
def test_a_malformed_example_is_named_by_its_line(tmp_path: Path, bad: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_conversations(write(tmp_path, GOOD, bad))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"instruction": 3, "output": "x"}, "'instruction' that is not a string"),
        ({"instruction": "a", "input": 3, "output": "x"}, "'input' that is not a string"),
        ({"instruction": "a", "output": "x", "history": [["a"]]}, "malformed 'history'"),
        (sharegpt(("system", "a"), ("human", "b"), system="c"), "both a system message and the key 'system'"),
        (sharegpt(("human", "b"), system=3), "'system' that is not a string"),
    ],
)
def test_malformed_examples_of_other_formats_are_named(tmp_path: Path, bad: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_conversations(write(tmp_path, bad))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("data.json", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n", "git lfs pull"),
        ("data.CSV", b"question,answer\nhi,yes\n", "is a table; convert it to JSON lines"),
        ("data.tsv", b"question\tanswer\n", "is a table"),
        ("data.xlsx", b"PK\x03\x04", "is a table"),
        ("data.json", b"PK\x03\x04plain", "is a ZIP archive"),
        ("data.json", b"\xef\xbb\xbf\n<!DOCTYPE html><p>Sign in", "is a web page"),
    ],
)
def test_files_of_other_kinds_are_not_learned_as_text(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=f"{name} .*{says}"):
        read_conversations(tmp_path / name)


@pytest.mark.parametrize("text", ["a, b, c", "<p> is a tag.", "PKW", "version 2 of git-lfs"])
def test_plain_text_stays_training_data(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.txt").write_text(text)
    (example,) = read_conversations(tmp_path / "data.txt")
    assert example.text is not None
    assert list(example.text) == [text]
