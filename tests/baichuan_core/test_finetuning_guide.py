"""docs/finetuning.md: its snippets run, and its table has every option with both names."""

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from baichuan_core import FinetuningOptions
from examples.tiny_checkpoint import CONVERSATIONS, make_tiny_checkpoint
from jobs.specs import FinetuneSpec
from jobs.specs.published_finetuning import FIELD_BY_PUBLISHED_NAME, TRANSLATED_OPTIONS

pytestmark = pytest.mark.slow  # runs the whole guide

GUIDE = Path(__file__).parents[2] / "docs" / "finetuning.md"
OF_EVERY_KIND = {"kind", "priority", "labels", "max_attempts", "timeout_seconds", "resources"}


def test_the_guide_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_tiny_checkpoint(tmp_path / "Baichuan2-7B-Chat")
    shutil.copyfile(CONVERSATIONS, "conversations.json")
    snippets = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(snippets) == 3
    notebook: dict[str, Any] = {}
    for snippet in snippets:
        exec(compile(snippet, str(GUIDE), "exec"), notebook)  # noqa: S102 - our own documentation
    assert notebook["report"].steps == 8
    assert json.loads(Path("tuned-records/distribution.json").read_text())["strategy"] == "ddp"
    assert {"series.jsonl", "training.png"} <= {path.name for path in Path("adapter-records").iterdir()}


def test_the_guide_names_every_option() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z0-9_]+)`", text))
    assert (FinetuneSpec.model_fields.keys() - OF_EVERY_KIND) <= named
    assert {field.name for field in fields(FinetuningOptions)} - {"device"} <= named
    command = set(re.findall(r"--([a-z0-9_]+)", text))
    assert FIELD_BY_PUBLISHED_NAME.keys() <= named
    assert set(TRANSLATED_OPTIONS) <= named | command
