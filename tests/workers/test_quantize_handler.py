"""The handler of quantize jobs that calibrate."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from baichuan_core import Progress
from footprint import GIB, PRESETS, Precision
from jobs.specs import QuantizeSpec
from jobs.specs.model_properties import ModelProperties
from workers.handlers import quantize as handler
from workers.handlers.contract import HandlerContext

SPEC: dict[str, Any] = {
    "kind": "quantize",
    "model": "tiny",
    "compute_dtype": "float32",
    "calibration": True,
    "calibration_sequences": 4,
}
FILE, OTHER = "file-" + "0" * 26, "file-" + "1" * 26


class WorkerLostError(Exception):
    """The attempt's worker is lost."""


def context(
    folder: Path, model: Path, earlier: list[Path], report: Any = lambda _: None, **files: Path
) -> HandlerContext:
    output, checkpoints = folder / "output", folder / "checkpoints"
    output.mkdir(parents=True)
    checkpoints.mkdir()
    return HandlerContext({"model": model}, files, output, checkpoints, earlier, report)


@pytest.mark.slow
def test_a_later_attempt_resumes_from_the_last_block(tiny_checkpoint: Path, tmp_path: Path) -> None:
    spec, silent = QuantizeSpec(**SPEC), QuantizeSpec(**SPEC, quality_report=False)

    def lose_after_one(progress: Progress) -> None:
        if progress.metrics.get("block") == 1:
            raise WorkerLostError

    first = context(tmp_path / "first", tiny_checkpoint, [], lose_after_one)
    with pytest.raises(WorkerLostError):
        handler.run(silent, first)
    assert not list(first.output.iterdir())
    (tmp_path / "never began").mkdir()
    seen: list[Progress] = []
    second = context(
        tmp_path / "second", tiny_checkpoint, [tmp_path / "never began", first.checkpoints], report=seen.append
    )
    handler.run(silent, second)
    assert [one.metrics["block"] for one in seen if one.stage == "calibrating"] == [2]
    whole = context(tmp_path / "whole", tiny_checkpoint, [])
    result = handler.run(spec, whole).result
    weights = [each.model_output / "model.safetensors" for each in (second, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert result.quality is not None
    models = result.quality.models
    assert [one.name for one in models] == ["unquantized", "nf4", "nf4, calibrated"]
    assert models[1].weight_bytes == models[2].weight_bytes
    report = json.loads((whole.output / "quality.json").read_text(encoding="utf-8"))
    assert report["models"][2]["relative_errors"] == result.relative_errors
    assert {path.name for path in whole.output.iterdir()} == {"model", "quality.json", "quality.png"}


def test_a_text_and_conversations_to_calibrate_on(tiny_checkpoint: Path, tmp_path: Path, conversations: Path) -> None:
    spec = QuantizeSpec(**SPEC, calibration_file=FILE, quality_report=False)
    many = tmp_path / "many.json"
    many.write_text(json.dumps(json.loads(conversations.read_text(encoding="utf-8")) * 8), encoding="utf-8")
    text = tmp_path / "mine.txt"
    text.write_text("".join(f"{number}: the words of line {number}, 和一些中文。\n" for number in range(400)), "utf-8")
    weights = []
    for name, file in (("conversations", many), ("text", text)):
        job = context(tmp_path / name, tiny_checkpoint, [], calibration_file=file)
        handler.run(spec, job)
        weights.append((job.model_output / "model.safetensors").read_bytes())
    assert weights[0] != weights[1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"calibration": False, "calibration_file": FILE}, "set calibration to true"),
        ({"calibration_file": FILE, "quality_text_file": FILE}, "measure on another text"),
        ({"calibration_sequences": 3}, "greater than or equal to 4"),
    ],
)
def test_invalid_specs(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        QuantizeSpec(**{**SPEC, **fields})


def test_both_files_are_fetched() -> None:
    spec = QuantizeSpec(**SPEC, calibration_file=FILE, quality_text_file=OTHER)
    assert spec.list_file_references() == {"calibration_file": FILE, "quality_text_file": OTHER}


def test_calibration_of_13b_fits_a_gpu_of_24_gb() -> None:
    model = ModelProperties(PRESETS["baichuan2-13b"], Precision())
    _, needs, _ = QuantizeSpec(**{**SPEC, "calibration_sequences": 32}).estimate_footprints(model)
    assert needs.place == "device"
    assert 6 * GIB < needs.total < 22 * GIB
