"""Evaluations over HTTP: an archive is uploaded, metrics of two models are returned, and errors are reported."""

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from examples.tiny_checkpoint import make_tiny_checkpoint
from tests.system.conftest import Service

BENCHMARKS = Path(__file__).parents[1] / "data" / "benchmarks"


def packed(folder: Path, tmp_path: Path) -> bytes:
    """A benchmark as it is published."""
    return Path(shutil.make_archive(str(tmp_path / folder.name), "gztar", folder)).read_bytes()


def evaluate(service: Service, content: bytes, **fields: Any) -> dict[str, Any]:
    """Upload a file, and run an evaluation on it."""
    file_id = service.upload(content, "user_data", "benchmark").json()["id"]
    return service.run(kind="evaluate", data_file=file_id, **{"model": "tiny", **fields})


@pytest.mark.slow
def test_two_models_are_asked_a_benchmark(service: Service, tmp_path: Path) -> None:
    make_tiny_checkpoint(service.models / "other", seed=1)
    service.register("other", service.models / "other")
    job = evaluate(service, packed(BENCHMARKS / "mmlu", tmp_path), benchmark="mmlu", compare_with="other")
    assert job["state"] == "succeeded", job
    assert service.artifacts(job) == ["answers.jsonl", "evaluation.json", "evaluation.md"]
    artifacts = f"/v1/jobs/{job['id']}/artifacts"
    report = service.http.get(f"{artifacts}/evaluation.json").raise_for_status().json()
    assert (report["benchmark"], report["split"], report["averaging"]) == ("MMLU", "test", "questions")
    assert set(report["model"]["categories"]) == {"STEM", "humanities", "social sciences"}
    lines = [json.loads(line) for line in service.http.get(f"{artifacts}/answers.jsonl").text.splitlines()]
    right = {name: sum(line[name]["letter"] == line["right"] for line in lines) for name in ("model", "compared_with")}
    total = job["result"]["comparison"]["total"]
    assert total["difference"] == pytest.approx((right["model"] - right["compared_with"]) / 12)
    assert total["low"] <= total["difference"] <= total["high"]
    row = f"| **all** | 12 | {100 * right['model'] / 12:.2f} | {100 * right['compared_with'] / 12:.2f} |"
    assert row in service.http.get(f"{artifacts}/evaluation.md").text


def test_errors_in_the_data_are_reported(service: Service) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as file:
        row = b",Question,A,B,C,D,Answer\n0,q,1,2,3,4,X\n"
        member = tarfile.TarInfo("test/genetics.csv")
        member.size = len(row)
        file.addfile(member, io.BytesIO(row))
    for content, benchmark, says in (
        (archive.getvalue(), "cmmlu", "test/genetics.csv line 2 has the answer 'X'"),
        (archive.getvalue(), "ceval", "no folder 'val'"),
        (b"no archive", "mmlu", "not a directory or a valid .zip or .tar file"),
        (b"a", "perplexity", "too few"),
    ):
        job = evaluate(service, content, benchmark=benchmark)
        assert (job["state"], job["error"]["code"], job["attempts"]) == ("failed", "dataset", 1)
        assert says in job["error"]["message"]
    spec = {"kind": "evaluate", "model": "tiny", "data_file": "file-" + "0" * 26, "benchmark": "perplexity"}
    answer = service.http.post("/v1/jobs", json={**spec, "subjects": ["law"]})
    assert answer.status_code == 422
    assert "perplexity does not accept subjects" in answer.text
