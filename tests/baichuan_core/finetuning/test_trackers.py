"""Trackers: missing packages are reported before anything is loaded, and without an account files stay local."""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from baichuan_core import FinetuningOptions, FinetuningReport, Progress, UnsupportedError, finetune
from baichuan_core.finetuning import trackers
from examples.tiny_checkpoint import CONVERSATIONS, make_tiny_checkpoint

FAKES = Path(__file__).parent / "fake_trackers"
VARIABLES = ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "MLFLOW_TRACKING_URI")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the stand-ins be found as the packages."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.syspath_prepend(FAKES)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in trackers.TRACKERS]:
        del sys.modules[name]


def calls_of(name: str) -> list[tuple[str, Any]]:
    """Return what a stand-in was told, in order."""
    calls: list[tuple[str, Any]] = importlib.import_module(name).calls
    return calls


def train(directory: Path, *names: str, stop_at: int | None = None) -> FinetuningReport:
    """Train three steps; an error in the caller's code may end them."""

    def stop(progress: Progress) -> None:
        if progress.metrics.get("step") == stop_at is not None:
            raise RuntimeError("stop")

    options = FinetuningOptions(
        report_to=names, max_steps=3, batch_size=4, max_length=64, validation_split=0.2, eval_steps=3, device="cpu"
    )
    base = make_tiny_checkpoint(directory / "base")
    checkpoints, records = directory / "checkpoints", directory / "records"
    return finetune(
        base, CONVERSATIONS, directory / "out", options, checkpoints=checkpoints, records=records, on_progress=stop
    )


@pytest.mark.usefixtures("fakes")
def test_wandb_gets_each_step_and_evaluation_and_the_end(tmp_path: Path) -> None:
    report = train(tmp_path, "wandb")
    calls = calls_of("wandb")
    name, settings = calls[0]
    assert (name, settings["WANDB_MODE"], settings["WANDB_DIR"]) == ("init", "offline", str(tmp_path / "records"))
    logged = [values for name, values in calls if name == "log"]
    losses = {values["train/global_step"]: values["train/loss"] for values in logged if "train/loss" in values}
    assert (sorted(losses), losses[3]) == ([1, 2, 3], report.final_loss)
    assert all("train/tokens_per_second" in values for values in logged if "train/loss" in values)
    assert [values["eval/loss"] for values in logged if "eval/loss" in values] == [report.best_eval_loss]
    assert calls[-1] == ("finish", 0)


@pytest.mark.usefixtures("fakes")
def test_mlflow_gets_each_step_and_evaluation_and_the_end(tmp_path: Path) -> None:
    report = train(tmp_path, "mlflow")
    calls = calls_of("mlflow")
    assert calls[0] == ("set_tracking_uri", f"sqlite:///{tmp_path / 'records' / 'mlflow.db'}")
    logged = [values for name, values in calls if name == "log_metrics"]
    losses = {values["step"]: values["loss"] for values in logged if "loss" in values}
    assert (sorted(losses), losses[3]) == ([1, 2, 3], report.final_loss)
    assert [values["eval_loss"] for values in logged if "eval_loss" in values] == [report.best_eval_loss]
    assert any(values.get("learning_rate") for name, values in calls if name == "log_params")
    assert calls[-1] == ("end_run", "FINISHED")


@pytest.mark.usefixtures("fakes")
def test_a_run_that_fails_counts_as_failed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"):
        train(tmp_path, *trackers.TRACKERS, stop_at=2)
    assert calls_of("wandb")[-1] == ("finish", 1)
    assert calls_of("mlflow")[-1] == ("end_run", "FAILED")


def test_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An offline run makes a folder "wandb" in the working directory."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnsupportedError, match=r'pip install "baichuan-jobs\[wandb\]"'):
        trackers.require_trackers(("wandb",))


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_a_missing_package_is_named_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    base = make_tiny_checkpoint(tmp_path / "base")
    options = FinetuningOptions(report_to=(name,), max_steps=1)
    with pytest.raises(UnsupportedError, match=rf'pip install "baichuan-jobs\[{name}\]"'):
        finetune(base, CONVERSATIONS, tmp_path / "out", options, checkpoints=tmp_path / "checkpoints")


def test_an_unknown_tracker_is_rejected() -> None:
    with pytest.raises(ValueError, match="report_to contains 'comet'; choose from 'wandb', 'mlflow'"):
        FinetuningOptions(report_to=("comet",))


def test_without_variables_everything_stays_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with trackers.tracker_session(("wandb", "mlflow"), tmp_path / "records"):
        assert os.environ["WANDB_MODE"] == "offline"
        assert os.environ["WANDB_DIR"] == str(tmp_path / "records")
        assert os.environ["MLFLOW_TRACKING_URI"].startswith(f"sqlite:///{tmp_path}")
    assert not {"WANDB_MODE", "WANDB_DIR", "MLFLOW_TRACKING_URI"} & os.environ.keys()


def test_environment_variables_take_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "key")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with trackers.tracker_session(("wandb", "mlflow"), tmp_path):
        assert "WANDB_MODE" not in os.environ
        assert os.environ["MLFLOW_TRACKING_URI"] == "http://tracker"
