"""Every snippet of docs/client.md runs, in order, against a service with a real worker."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import Service

pytestmark = pytest.mark.slow  # runs the whole guide

GUIDE = Path(__file__).parents[2] / "docs" / "client.md"
MODEL = "baichuan2-7b-chat"


def test_the_guide_runs_from_top_to_bottom(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BAICHUAN_URL", str(service.http.base_url))
    monkeypatch.setenv("BAICHUAN_API_KEY", service.http.headers["Authorization"].removeprefix("Bearer "))
    assert service.register(MODEL, service.models / "tiny").status_code == 201
    snippets = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(snippets) == 5
    script: dict[str, Any] = {}
    printed = []
    for snippet in snippets:
        exec(compile(snippet, str(GUIDE), "exec"), script)  # noqa: S102 - our own documentation
        printed.append(capsys.readouterr().out)
    results, events, errors, lists, asynchronous = printed
    assert results.startswith("succeeded kind='generate' requests=1 ")
    assert results.endswith(" bytes\n")
    assert len(Path("completions.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    assert "state {'from': 'running', 'to': 'succeeded'" in events
    assert errors.startswith("422 unknown_model model there is no model 'no-such-model'")
    assert errors.endswith("cancelled\n")
    assert "'the-same-model'" in lists
    assert f"{script['job'].id} generate" in lists
    assert asynchronous == "['succeeded', 'succeeded']\n"
