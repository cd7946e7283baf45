"""Preview jobs: the encoding of a file, and the errors in it."""

import json
from pathlib import Path

from jobs.results import PreviewResult, read_result
from tests.workers.deployment import Deployment


def test_a_preview_shows_what_would_be_trained(service: Deployment, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    chats = [("hi", "yes"), ("hi", "word " * 600), ("hi", None)]
    path.write_text(
        "\n".join(
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": question},
                        *([{"role": "assistant", "content": answer}] if answer else []),
                    ]
                }
            )
            for question, answer in chats
        )
    )
    uploaded = service.upload(path, "fine-tune")
    job_id = service.submit(kind="preview", model="tiny", training_file=uploaded.id, max_length=64, examples=2)
    job = service.wait(job_id)
    result = read_result("preview", job.result)
    assert isinstance(result, PreviewResult)
    assert (result.data_format, result.chat_format, result.complete) == ("openai", "baichuan2", True)
    assert (result.count, result.truncated_examples, result.dropped_examples) == (2, 1, 1)
    short, long = result.examples
    assert [token.trained for token in short.tokens][-1]
    assert not short.tokens[0].trained
    assert long.length == len(long.tokens) == 64
    assert sum(row.examples for row in result.lengths) == 3
    assert service.artifacts(job_id) == {}


def test_malformed_data_is_named_by_its_line(service: Deployment, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a"}\n{"text": 3}\n')
    uploaded = service.upload(path, "fine-tune")
    job = service.wait(service.submit(kind="preview", model="tiny", training_file=uploaded.id), "failed")
    assert job.error is not None
    assert "line 2 (example 2)" in job.error["message"]
