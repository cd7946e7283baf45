"""Trackers: missing packages are reported before anything is loaded, and without an account files stay local."""

import os
from pathlib import Path

import pytest

from baichuan_core import FinetuningOptions, UnsupportedError, finetune
from baichuan_core.finetuning import trackers
from examples.tiny_checkpoint import CONVERSATIONS, make_tiny_checkpoint


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_a_missing_package_is_named_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    base = make_tiny_checkpoint(tmp_path / "base")
    options = FinetuningOptions(report_to=(name,), max_steps=1)
    with pytest.raises(UnsupportedError, match=rf'pip install "baichuan-jobs\[{name}\]"'):
        finetune(base, CONVERSATIONS, tmp_path / "out", options, checkpoints=tmp_path / "checkpoints")


def test_an_unknown_tracker_is_rejected() -> None:
    with pytest.raises(ValueError, match="report_to has 'comet'; use some of 'wandb', 'mlflow'"):
        FinetuningOptions(report_to=("comet",))


def test_without_variables_everything_stays_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    with trackers.tracking(("wandb", "mlflow"), tmp_path / "records"):
        assert os.environ["WANDB_MODE"] == "offline"
        assert os.environ["WANDB_DIR"] == str(tmp_path / "records")
        assert os.environ["MLFLOW_TRACKING_URI"].startswith(f"sqlite:///{tmp_path}")
    assert not {"WANDB_MODE", "WANDB_DIR", "MLFLOW_TRACKING_URI"} & os.environ.keys()


def test_environment_variables_take_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "key")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with trackers.tracking(("wandb", "mlflow"), tmp_path):
        assert "WANDB_MODE" not in os.environ
        assert os.environ["MLFLOW_TRACKING_URI"] == "http://tracker"
