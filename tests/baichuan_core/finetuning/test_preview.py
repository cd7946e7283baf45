"""The preview of a data set: tokens with the trained part marked, counts and lengths."""

import json
from pathlib import Path

import pytest

from baichuan_core import DatasetError, preview_dataset
from examples.tiny_checkpoint import CONVERSATIONS, make_tiny_checkpoint


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("base"))


def test_the_trained_part_is_the_answer_and_the_end(base: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    short = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    long = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "word " * 60}]
    unanswered = [{"role": "user", "content": "hi"}]
    data.write_text("\n".join(json.dumps({"messages": each}) for each in (short, long, unanswered)))
    preview = preview_dataset(base, data, max_length=32, examples=1)
    (example,) = preview.examples
    first_trained = [token.trained for token in example].index(True)
    assert example[0].id == 195
    assert example[first_trained - 1].id == 196
    assert "".join(token.piece for token in example[first_trained:-1]).strip("▁") == "yes"
    assert example[-1].trained
    assert all(token.trained for token in example[first_trained:])
    assert (preview.format, preview.count, preview.dropped, preview.truncated) == ("openai", 2, 1, 1)
    assert preview.tokens == len(example) + 32
    assert 0 < preview.trained_tokens < preview.tokens
    assert sum(count for *_, count in preview.lengths) == 3
    assert preview.lengths[0][:2] == (1, 32)
    assert preview.lengths[-1][0] > 32


def test_published_data_and_errors(base: Path, tmp_path: Path) -> None:
    preview = preview_dataset(base, CONVERSATIONS, examples=100)
    assert len(preview.examples) == preview.count == 16
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(DatasetError, match="line 1"):
        preview_dataset(base, tmp_path / "bad.json")
