"""Files are read in chunks: wherever a chunk ends, the examples and the errors are those of the whole file."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baichuan_core.errors import DatasetError, InsufficientSpaceError
from baichuan_core.finetuning import json_items, text_chunks
from baichuan_core.finetuning.data import combine_training_data, load_training_data, split_training_data
from baichuan_core.finetuning.example_store import EncodedExample, ExampleStore
from baichuan_core.finetuning.formats import read_conversations
from baichuan_core.finetuning.json_items import read_array_items, read_line_items
from baichuan_core.finetuning.text_chunks import TextChunks, read_chunks
from baichuan_core.tokenizer import BaichuanTokenizer

TOKENIZER = Path(__file__).parents[2] / "golden" / "chat" / "tokenizer.model"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def cut(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(0, len(text), size))


@given(items=st.lists(VALUES, max_size=5), indent=st.sampled_from([None, 0, 1]), size=st.integers(1, 40))
def test_an_array_is_read_in_chunks(items: list[Any], indent: int | None, size: int) -> None:
    text = "\n " + json.dumps(items, indent=indent) + "\n"
    assert list(read_array_items(cut(text, size))) == list(read_array_items(iter([text])))
    assert [item for _, item in read_array_items(cut(text, size))] == items


@given(items=st.lists(VALUES, max_size=5), size=st.integers(1, 40))
def test_lines_are_read_in_chunks(items: list[Any], size: int) -> None:
    text = "\n\n".join(map(json.dumps, items))
    assert list(read_line_items(cut(text, size))) == [(1 + 2 * number, item) for number, item in enumerate(items)]


@given(text=st.text(st.sampled_from('[]{}",:\\ \n1tx'), max_size=40), size=st.integers(1, 10))
def test_a_malformed_array_has_the_same_error_in_chunks(text: str, size: int) -> None:
    def outcome(chunks: Iterator[str]) -> Any:
        try:
            return list(read_array_items(chunks))
        except DatasetError as error:
            return str(error).split(" of the training data")[0]  # the decoder's message depends on the cut

    assert outcome(cut(f"[{text}", size)) == outcome(iter([f"[{text}"]))


def test_an_open_quote_does_not_read_the_rest_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_items, "MAX_ELEMENT_CHARACTERS", 100)
    chunks = cut('[{"a": 1},\n{"b: 2}' + " " * 10_000, 10)
    with pytest.raises(DatasetError, match=r"line 2 .* Unterminated string"):
        list(read_array_items(chunks))
    assert len(list(chunks)) > 900


@pytest.mark.parametrize("place", [1, 5, 9, 16, 17])
def test_the_byte_that_is_not_utf8_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    monkeypatch.setattr(text_chunks, "CHUNK_CHARACTERS", 8)
    content = bytearray("文字文字ab文字".encode()[:17] + b" end of the text")
    content[place - 1 : place] = b"\xff"
    (tmp_path / "data.txt").write_bytes(b"\xef\xbb\xbf" + content)
    valid = content[: place - 1]
    first = len(valid) - len(valid.decode(errors="ignore").encode()) if place > 1 else 0
    with pytest.raises(DatasetError, match=rf"data.txt is not UTF-8 \(byte {place - first}\)"):
        list(read_chunks(tmp_path / "data.txt"))


@pytest.mark.parametrize("text", ["a line.\n" * 40, "  \n\nno end " + "of words " * 40, "\n\none\n\n\n\ntwo\n" * 20])
def test_chunks_of_a_text_have_the_tokens_of_the_whole_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    tokenizer = BaichuanTokenizer(str(TOKENIZER))
    (tmp_path / "data.txt").write_text(text)
    whole = load_training_data(tokenizer, tmp_path / "data.txt", max_length=8)
    monkeypatch.setattr(text_chunks, "CHUNK_CHARACTERS", 7)
    monkeypatch.setattr(text_chunks, "MAX_TEXT_CHUNK_CHARACTERS", 30)
    pieces = list(TextChunks(tmp_path / "data.txt"))
    assert len(pieces) > 5
    assert "".join(pieces) == text.strip()
    if "\n" in text.strip():
        cut_up = load_training_data(tokenizer, tmp_path / "data.txt", max_length=8)
        assert list(cut_up.examples) == list(whole.examples)


def test_blank_lines_before_the_first_example_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_chunks, "CHUNK_CHARACTERS", 3)
    (tmp_path / "data.jsonl").write_text("\n" * 10 + '{"text": "a"}\n{"text": 1}')
    with pytest.raises(DatasetError, match=r"line 12 \(example 2\)"):
        read_conversations(tmp_path / "data.jsonl")


def test_a_store_returns_what_was_added() -> None:
    store = ExampleStore()
    examples = [EncodedExample([5] * length, [-100] * (length - 1) + [7]) for length in (3, 1, 20)]
    for number, example in enumerate(examples):
        store.append(example)
        assert store.read(number)[0].tolist() == example.input_ids
    assert store.lengths.tolist() == [3, 1, 20]


def test_parts_share_a_store_and_are_selected_by_index(tmp_path: Path) -> None:
    tokenizer, store = BaichuanTokenizer(str(TOKENIZER)), ExampleStore(tmp_path)
    parts = []
    for name in ("a", "b"):
        (tmp_path / name).write_text("\n".join(json.dumps({"text": f"{name} {number}"}) for number in range(10)))
        parts.append(load_training_data(tokenizer, tmp_path / name, max_length=8, store=store))
    rest, held = split_training_data(parts[0], 0.2, seed=1)
    assert sorted([*rest.examples.indices, *held.examples.indices]) == list(range(10))
    assert len(held.examples) == 2
    mixed = combine_training_data([rest, parts[1]], [0.5, 2], seed=1)
    assert (len(mixed.examples), mixed.tokens) == (24, sum(len(each.input_ids) for each in mixed.examples))
    assert set(mixed.examples.indices[:4]) < set(rest.examples.indices)
    assert list(mixed.examples.indices[4:]) == [*range(10, 20)] * 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ExampleStore()
    with Path("/dev/full").open("wb") as full:
        os.dup2(full.fileno(), store._file.fileno())
    store.append(EncodedExample([1], [1]))
    with pytest.raises(InsufficientSpaceError, match="the disk is full after 1 encoded examples"):
        store.read(0)
