"""A run that is killed with signal 9 and resumed ends with exactly the weights of an uninterrupted one."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file

from baichuan_core import FinetuningOptions, find_latest_resume_point, finetune
from baichuan_core.errors import TrainingPausedError
from examples.tiny_checkpoint import CONVERSATIONS, make_tiny_checkpoint

pytestmark = pytest.mark.slow  # every test starts several processes

KILLED_RUN = """
import os, signal, sys
from pathlib import Path
import torch
from baichuan_core import FinetuningOptions, Progress, finetune
from examples.tiny_checkpoint import CONVERSATIONS

def die_at_step_five(progress: Progress) -> None:
    if progress.metrics.get("step") == 5:
        os.kill(os.getpid(), signal.SIGKILL)

base, method, output, checkpoints, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
options = FinetuningOptions(**{options} | {{"method": method}})
finetune(Path(base), CONVERSATIONS, Path(output), options, checkpoints=Path(checkpoints),
         on_progress=die_at_step_five)
"""
OPTIONS: dict[str, Any] = {
    "epochs": 2,
    "learning_rate": 1e-2,
    "batch_size": 4,
    "save_steps": 2,
    "lora_dropout": 0.3,
    "dtype": "float32",
    "device": "cpu",
}
Method = Literal["full", "lora"]


@pytest.mark.parametrize("method", [pytest.param("full", marks=pytest.mark.alone), "lora"])
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, method: Method) -> None:
    base = make_tiny_checkpoint(tmp_path / "base")
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            KILLED_RUN.replace("{options}", repr(OPTIONS)).replace("{{", "{").replace("}}", "}"),
            *map(str, (base, method, tmp_path / "resumed", tmp_path / "checkpoints", torch.get_num_threads())),
        ],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "resumed").exists()

    options = FinetuningOptions(**OPTIONS | {"method": method})
    last = find_latest_resume_point(tmp_path / "checkpoints")
    assert last is not None
    assert last.name == "checkpoint-4"
    resumed = finetune(
        base, CONVERSATIONS, tmp_path / "resumed", options, checkpoints=tmp_path / "checkpoints", resume_from=last
    )
    assert (resumed.resumed_from_step, resumed.steps) == (4, 8)
    plain = finetune(base, CONVERSATIONS, tmp_path / "plain", options, checkpoints=tmp_path / "plain-checkpoints")
    assert resumed.final_loss == plain.final_loss
    file = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    expected = load_file(tmp_path / "plain" / file)
    actual = load_file(tmp_path / "resumed" / file)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_a_run_that_died_after_its_last_step_only_writes_the_result(tmp_path: Path) -> None:
    base = make_tiny_checkpoint(tmp_path / "base")
    options = FinetuningOptions(**OPTIONS | {"method": "full", "epochs": 1})
    first = finetune(base, CONVERSATIONS, tmp_path / "first", options, checkpoints=tmp_path / "checkpoints")
    last = find_latest_resume_point(tmp_path / "checkpoints")
    again = finetune(
        base, CONVERSATIONS, tmp_path / "again", options, checkpoints=tmp_path / "checkpoints", resume_from=last
    )
    assert (again.resumed_from_step, again.steps, again.final_loss) == (4, 4, first.final_loss)
    expected, actual = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "again"))
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_an_incomplete_resume_point_is_ignored(tmp_path: Path) -> None:
    assert find_latest_resume_point(tmp_path / "missing") is None
    for step in (2, 10):
        directory = tmp_path / f"checkpoint-{step}"
        directory.mkdir()
        (directory / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
    for step, content in ((12, None), (14, '{"global_')):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if content is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(content)
    found = find_latest_resume_point(tmp_path)
    assert found is not None
    assert found.name == "checkpoint-10"


def test_a_run_that_was_paused_continues_where_it_was(tmp_path: Path) -> None:
    base = make_tiny_checkpoint(tmp_path / "base")
    options = FinetuningOptions(**OPTIONS | {"method": "lora", "save_steps": 1000})
    asked = iter([False, False, True])
    with pytest.raises(TrainingPausedError, match="paused after step 3 of 8"):
        finetune(
            base,
            CONVERSATIONS,
            tmp_path / "paused",
            options,
            checkpoints=tmp_path / "checkpoints",
            should_pause=lambda: next(asked),
        )
    assert not (tmp_path / "paused").exists()
    last = find_latest_resume_point(tmp_path / "checkpoints")
    resumed = finetune(
        base, CONVERSATIONS, tmp_path / "resumed", options, checkpoints=tmp_path / "checkpoints", resume_from=last
    )
    assert (resumed.resumed_from_step, resumed.steps) == (3, 8)
    plain = finetune(base, CONVERSATIONS, tmp_path / "plain", options, checkpoints=tmp_path / "plain-checkpoints")
    assert resumed.final_loss == plain.final_loss
