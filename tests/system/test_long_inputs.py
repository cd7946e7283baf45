"""Jobs whose prompts or conversations are in the artifact store run as if they were uploaded."""

import json
from typing import Any

import pytest

from tests.system.conftest import Service

pytestmark = pytest.mark.slow  # submits megabytes of prompts

PROMPTS = [f"{number} 你好, a queue" for number in range(60)]
ANSWERED = [{"role": "assistant", "content": "A"}, {"role": "user", "content": "?"}]
CONVERSATIONS = [[{"role": "user", "content": prompt}, *ANSWERED] for prompt in PROMPTS]
FIELDS = {"kind": "generate", "model": "tiny", "max_new_tokens": 2, "temperature": 0}


def completions(service: Service, **fields: Any) -> list[str]:
    """Return the output of a job, which must succeed."""
    job = service.run(**FIELDS, **fields)
    assert job["state"] == "succeeded", job["error"]
    assert ("inline_input" in job["spec"]) == ("input_file" not in fields)
    answer = service.http.get(f"/v1/jobs/{job['id']}/artifacts/completions.jsonl").raise_for_status()
    return [json.loads(line)["completion"] for line in answer.text.splitlines()]


def uploaded(service: Service, field: str, values: list[Any]) -> str:
    """The id of a file with these requests."""
    lines = "\n".join(json.dumps({field: value}) for value in values)
    return str(service.upload(lines.encode(), "prompts", "requests.jsonl").json()["id"])


def test_long_inputs_run_like_files(service: Service) -> None:
    by_file = completions(service, input_file=uploaded(service, "prompt", PROMPTS))
    assert len(by_file) == len(PROMPTS)
    assert completions(service, prompts=PROMPTS) == by_file
    chats_by_file = completions(service, input_file=uploaded(service, "messages", CONVERSATIONS))
    assert completions(service, conversations=CONVERSATIONS) == chats_by_file
