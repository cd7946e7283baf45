"""Several ranks train the same as one process with the same global batch, and stop and resume together."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from baichuan_core import Distribution, Progress, RankFailedError, find_latest_resume_point
from baichuan_core.errors import TrainingPausedError
from examples.tiny_checkpoint import Family, make_tiny_checkpoint
from tests.baichuan_core.finetuning.distributed_runs import Outcome, rank_processes, run

Strategy = Literal["ddp", "fsdp2", "zero2", "zero3", "zero3-offload"]
SLOW = pytest.mark.long
# Each rank imports torch and DeepSpeed, on cores that may be busy.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
# Everything that changes how batches become steps, with a last batch of 3 of 15 examples. The first rank has two of
# them and the second has one, and their numbers of labelled tokens differ.
EVERYTHING = {
    "batch_size": 2,
    "gradient_accumulation_steps": 2,
    "gradient_checkpointing": True,
    "validation_split": 0.07,
    "eval_steps": 2,
    "lora_target_modules": ("W_pack", "o_proj", "lm_head"),
}


def require_same(two: Outcome, one: Outcome, *, weights: float = 3e-7) -> None:
    """Compare with the run of one process, with a relative tolerance of 1e-6 for the float32 losses."""
    assert two.losses == pytest.approx(one.losses, rel=1e-6)
    assert two.eval_losses == pytest.approx(one.eval_losses, rel=1e-6)
    assert two.weights.keys() == one.weights.keys()
    for name, weight in one.weights.items():
        assert two.weights[name].dtype == weight.dtype
        assert (two.weights[name] - weight).abs().max() <= weights, name
    for field in ("steps", "examples", "trained_parameters", "best_step"):
        assert getattr(two.report, field) == getattr(one.report, field)


@pytest.mark.parametrize(
    ("strategy", "family", "method"),
    [
        ("ddp", "baichuan2-13b", "full"),
        ("fsdp2", "baichuan2-7b", "lora"),
        ("zero3", "baichuan2-13b", "lora"),
        pytest.param("ddp", "baichuan1-7b", "lora", marks=SLOW),
        pytest.param("fsdp2", "baichuan2-13b", "full", marks=SLOW),
        pytest.param("fsdp2", "baichuan1-7b", "full", marks=SLOW),
        pytest.param("zero2", "baichuan2-7b", "full", marks=SLOW),
        pytest.param("zero2", "baichuan2-13b", "lora", marks=SLOW),
        pytest.param("zero3", "baichuan2-7b", "full", marks=SLOW),
        pytest.param("zero3", "baichuan1-13b", "full", marks=SLOW),
        pytest.param("zero3-offload", "baichuan2-13b", "full", marks=SLOW),
    ],
)
def test_two_ranks_equal_one_process(tmp_path: Path, strategy: Strategy, family: Family, method: str) -> None:
    base = make_tiny_checkpoint(tmp_path / "base", family=family)
    options = EVERYTHING | {"method": method}
    two = run(base, tmp_path / "two", options, Distribution(strategy=strategy, processes=2))
    one = run(base, tmp_path / "one", options | {"batch_size": 4})
    require_same(two, one, weights=1.4e-5 if strategy.startswith("zero3") else 3e-7)
    plan = json.loads((tmp_path / "two" / "records" / "distribution.json").read_text())
    assert plan == {"strategy": strategy, "reason": "it was requested", "nodes": 1, "processes": 2}
    assert not rank_processes()


@SLOW
def test_a_last_batch_smaller_than_the_number_of_ranks_is_shared(tmp_path: Path) -> None:
    """15 examples in batches of 2: the last one leaves a rank without an example."""
    base = make_tiny_checkpoint(tmp_path / "base")
    options = {"method": "lora", "validation_split": 0.07, "epochs": 1}
    two = run(base, tmp_path / "two", options | {"batch_size": 1}, Distribution(strategy="ddp", processes=2))
    one = run(base, tmp_path / "one", options | {"batch_size": 2})
    assert one.report.steps == 8
    require_same(two, one)


@pytest.mark.parametrize(
    ("strategy", "method", "victim"),
    [
        ("ddp", "lora", 1),
        pytest.param("ddp", "full", 0, marks=SLOW),
        pytest.param("fsdp2", "full", 1, marks=SLOW),
        pytest.param("fsdp2", "lora", 0, marks=SLOW),
        pytest.param("zero2", "full", 1, marks=SLOW),
        pytest.param("zero3", "lora", 1, marks=SLOW),
        pytest.param("zero3", "full", 0, marks=SLOW),
    ],
)
def test_a_killed_rank_ends_all_and_the_run_continues(
    tmp_path: Path, strategy: Strategy, method: str, victim: int
) -> None:
    base = make_tiny_checkpoint(tmp_path / "base")
    options: dict[str, Any] = {"method": method, "batch_size": 2, "lora_dropout": 0.3}
    distribution = Distribution(strategy=strategy, processes=2)

    def kill(progress: Progress) -> None:
        if progress.metrics.get("step") == 5:
            rank_processes()[victim].send_signal(signal.SIGKILL)

    with pytest.raises(RankFailedError, match=rf"rank {victim} was killed by SIGKILL.*last resume point"):
        run(base, tmp_path / "killed", options, distribution, on_progress=kill)
    assert not rank_processes()
    assert not (tmp_path / "killed" / "output").exists()
    last = find_latest_resume_point(tmp_path / "killed" / "checkpoints")
    assert last is not None
    resumed = run(base, tmp_path / "killed", options, distribution, resume_from=last)
    whole = run(base, tmp_path / "whole", options, distribution)
    assert resumed.report.resumed_from_step == int(last.name.removeprefix("checkpoint-")) >= 4
    assert resumed.report.final_loss == whole.report.final_loss
    assert all(torch.equal(resumed.weights[name], weight) for name, weight in whole.weights.items())


@SLOW
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_run_continues_on_another_number_of_ranks(tmp_path: Path, strategy: Strategy) -> None:
    """DDP resumes a run of one process, and FSDP2 on four ranks a run of two."""
    base = make_tiny_checkpoint(tmp_path / "base")
    first, second = (None, 2) if strategy == "ddp" else (Distribution(strategy=strategy, processes=2), 4)
    before, after = (4, 2) if strategy == "ddp" else (2, 1)
    asked = iter([False, False, True])
    with pytest.raises(TrainingPausedError):
        run(
            base,
            tmp_path / "parts",
            {"method": "full", "batch_size": before},
            first,
            should_pause=lambda: next(asked, True),
        )
    last = find_latest_resume_point(tmp_path / "parts" / "checkpoints")
    resumed = run(
        base,
        tmp_path / "parts",
        {"method": "full", "batch_size": after},
        Distribution(strategy=strategy, processes=second),
        resume_from=last,
    )
    one = run(base, tmp_path / "one", {"method": "full", "batch_size": 4})
    assert 0 < resumed.report.resumed_from_step < resumed.report.steps == one.report.steps
    assert resumed.report.final_loss == pytest.approx(one.report.final_loss, rel=1e-6)
    for name, weight in one.weights.items():
        assert (resumed.weights[name] - weight).abs().max() <= 3e-7, name


@SLOW
@pytest.mark.parametrize(
    ("strategy", "method"),
    [("ddp", "full"), ("fsdp2", "full"), ("fsdp2", "lora"), ("zero3", "full"), ("zero3", "lora")],
)
def test_mixed_precision_learns_what_one_process_learns(tmp_path: Path, strategy: Strategy, method: str) -> None:
    """bfloat16, the default on GPUs, has 8 significant bits, so only the losses are compared, approximately."""
    base = make_tiny_checkpoint(tmp_path / "base", family="baichuan2-13b")
    options = {"method": method, "dtype": "bfloat16", "learning_rate": 1e-2, "adam_epsilon": 1e-8}
    two = run(base, tmp_path / "two", options | {"batch_size": 2}, Distribution(strategy=strategy, processes=2))
    one = run(base, tmp_path / "one", options)
    assert two.losses == pytest.approx(one.losses, rel=0.05)
    assert one.losses[-1] < 0.9 * one.losses[0]
    assert {name: weight.dtype for name, weight in two.weights.items()} == {
        name: weight.dtype for name, weight in one.weights.items()
    }


def test_one_process_never_imports_deepspeed(tmp_path: Path) -> None:
    base = make_tiny_checkpoint(tmp_path / "base")
    code = f"""
import sys
from baichuan_core import FinetuningOptions, finetune
from examples.tiny_checkpoint import CONVERSATIONS
options = FinetuningOptions(method="full", epochs=1, save_steps=2, validation_split=0.2, device="cpu", dtype="float32")
finetune({str(base)!r}, CONVERSATIONS, {str(tmp_path / "output")!r}, options, checkpoints={str(tmp_path / "steps")!r})
print("deepspeed" in sys.modules)
"""
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
