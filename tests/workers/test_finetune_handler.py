"""The handler of fine-tuning jobs."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from baichuan_core.finetuning import FinetuningOptions
from baichuan_core.finetuning.options import PRESETS
from jobs.specs import FinetuneSpec
from jobs.specs.published_finetuning import PRESETS as JOB_PRESETS
from workers.handlers import finetune as handler
from workers.handlers.contract import HandlerContext

NAMES = {"lr_scheduler": "scheduler"}
NOT_IN_A_SPEC = {"device"}  # chosen by the worker


def default_spec() -> FinetuneSpec:
    return FinetuneSpec(kind="finetune", model="m", training_file="file-" + "0" * 26)


def test_jobs_and_the_library_have_the_same_defaults() -> None:
    spec = default_spec().model_dump()
    library = {name: value for name, value in asdict(FinetuningOptions()).items() if name not in NOT_IN_A_SPEC}
    jobs = {name: spec[NAMES.get(name, name)] for name in library}
    jobs |= {name: tuple(jobs[name]) for name in ("lora_target_modules", "report_to")}
    assert jobs | {"dtype": None if jobs["dtype"] == "auto" else jobs["dtype"]} == library


@pytest.mark.parametrize("name", PRESETS)
def test_jobs_and_the_library_have_the_same_presets(name: str) -> None:
    spec = FinetuneSpec.model_validate(
        {"kind": "finetune", "model": "m", "training_file": "file-" + "0" * 26, "preset": name}
    )
    assert handler.make_options(spec) == FinetuningOptions.from_preset(name)
    assert PRESETS.keys() == JOB_PRESETS.keys()


def test_a_job_without_settings_trains_with_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[FinetuningOptions] = []

    class TrainedError(Exception):
        """Ends the handler before it trains."""

    def note(_model: Any, _data: Any, _output: Any, options: FinetuningOptions, **_: Any) -> None:
        trained.append(options)
        raise TrainedError

    monkeypatch.setattr(handler, "finetune", note)
    context = HandlerContext({"model": tmp_path}, {"training_file": tmp_path}, tmp_path, tmp_path, [], lambda _: None)
    with pytest.raises(TrainedError):
        handler.run(default_spec(), context)
    assert trained == [FinetuningOptions()]


def test_files_with_weights_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class TrainedError(Exception):
        """Ends the handler before it trains."""

    given: list[Any] = []

    def note(_model: Any, data: Any, *_: Any, **__: Any) -> None:
        given.append(data)
        raise TrainedError

    monkeypatch.setattr(handler, "finetune", note)
    files = [{"file": f"file-{'0' * 26}"}, {"file": f"file-{'1' * 26}", "weight": 3.0}]
    spec = FinetuneSpec.model_validate({"kind": "finetune", "model": "m", "training_files": files})
    paths = {"training_files.0": tmp_path / "a", "training_files.1": tmp_path / "b"}
    with pytest.raises(TrainedError):
        handler.run(spec, HandlerContext({"model": tmp_path}, paths, tmp_path, tmp_path, [], lambda _: None))
    assert given == [{tmp_path / "a": 1.0, tmp_path / "b": 3.0}]
