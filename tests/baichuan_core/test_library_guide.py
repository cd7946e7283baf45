"""Every snippet of docs/library.md runs, in order, on a tiny checkpoint."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import baichuan_core
from baichuan_core.likelihood import load_held_out_text
from examples.tiny_checkpoint import CONVERSATIONS, make_tiny_checkpoint

pytestmark = pytest.mark.slow  # runs the whole guide

GUIDE = Path(__file__).parents[2] / "docs" / "library.md"


def test_the_guide_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_tiny_checkpoint(tmp_path / "Baichuan2-7B-Chat")
    shutil.copyfile(CONVERSATIONS, "conversations.json")
    shutil.make_archive("ceval-exam", "zip", Path(__file__).parents[1] / "data" / "benchmarks" / "ceval")
    Path("text.txt").write_text(load_held_out_text(), encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(snippets) == 21
    notebook: dict[str, Any] = {}
    for snippet in snippets:
        exec(compile(snippet, str(GUIDE), "exec"), notebook)  # noqa: S102 - our own documentation
    assert baichuan_core.inspect_checkpoint("merged").has_tokenizer
    assert len(Path("adapted.jsonl").read_text(encoding="utf-8").splitlines()) == 2
