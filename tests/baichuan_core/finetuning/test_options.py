"""Each option takes effect, or is rejected with a remedy."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
import torch
from safetensors.torch import load_file

from baichuan_core import (
    CheckpointError,
    DatasetError,
    FinetuningOptions,
    Progress,
    TrainingDivergedError,
    UnsupportedError,
    find_latest_resume_point,
    finetune,
)
from baichuan_core.errors import InsufficientMemoryError, MemoryOccupiedError
from baichuan_core.finetuning.options import PRESETS
from examples.tiny_checkpoint import CONVERSATIONS, make_tiny_checkpoint

QUICK: dict[str, Any] = {
    "method": "lora", "epochs": 1, "learning_rate": 1e-2, "batch_size": 8, "max_length": 64, "dtype": "float32",
    "device": "cpu", "lora_dropout": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def plain(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return tune(base, tmp_path_factory.mktemp("plain"))


def tune(base: Path, folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    finetune(
        base, CONVERSATIONS, folder / "out", FinetuningOptions(**QUICK | options), checkpoints=folder / "checkpoints"
    )
    return load_file(folder / "out" / "adapter_model.safetensors")


def differs(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() != other.keys() or any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "change",
    [
        {"adam_beta1": 0.5},
        {"adam_beta2": 0.5},
        {"adam_epsilon": 1e-2},
        {"max_grad_norm": 1e-4, "adam_epsilon": 1e-2},
        {"weight_decay": 0.9},
        {"lr_scheduler": "constant_with_warmup", "warmup_ratio": 0.9},
        {"lr_scheduler": "constant_with_warmup", "warmup_steps": 2},
        {"lr_scheduler": "linear"},
        {"lr_scheduler": "cosine"},
        {"lr_scheduler": "polynomial"},
        {"lr_scheduler": "inverse_sqrt", "warmup_steps": 1},
        {"max_steps": 1},
        {"neftune_noise_alpha": 5.0},
        {"lora_alpha": 1},
        {"lora_target_modules": ("o_proj", "down_proj")},
        {"lora_target_modules": ("W_pack", "lm_head")},
        {"use_rslora": True},
        {"use_dora": True},
        {"seed": 7},
        {"max_length": 12},
        {"gradient_accumulation_steps": 2},
    ],
    ids=lambda change: ",".join(f"{name}={value}" for name, value in change.items()),
)
def test_the_option_changes_the_result(
    base: Path, tmp_path: Path, plain: dict[str, torch.Tensor], change: dict[str, Any]
) -> None:
    assert differs(tune(base, tmp_path, **change), plain)


def test_equal_options_give_equal_results(base: Path, tmp_path: Path, plain: dict[str, torch.Tensor]) -> None:
    """Without it, the test above could not fail."""
    assert not differs(tune(base, tmp_path), plain)
    assert not differs(tune(base, tmp_path / "tf32", tf32=True), plain)  # TF32 does not exist on a CPU


def test_cosine_with_restarts_is_scheduled(base: Path, tmp_path: Path) -> None:
    rates: list[float] = []
    options = FinetuningOptions(**QUICK | {"lr_scheduler": "cosine_with_restarts", "epochs": 2})
    finetune(
        base, CONVERSATIONS, tmp_path / "out", options, checkpoints=tmp_path / "checkpoints",
        on_progress=lambda progress: rates.append(progress.metrics.get("learning_rate", 1.0)),
    )  # fmt: skip
    assert min(rates) < 5e-3


def test_resume_points_follow_strategy_and_limit(base: Path, tmp_path: Path) -> None:
    tune(base, tmp_path / "steps", epochs=3, save_steps=1, save_total_limit=3)
    steps = sorted(path.name for path in (tmp_path / "steps" / "checkpoints").iterdir())
    assert steps == ["checkpoint-4", "checkpoint-5", "checkpoint-6"]
    tune(base, tmp_path / "epochs", epochs=3, save_strategy="epoch", save_total_limit=9)
    epochs = sorted(path.name for path in (tmp_path / "epochs" / "checkpoints").iterdir())
    assert epochs == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


def test_reports_follow_logging_steps(base: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    options = FinetuningOptions(**QUICK | {"epochs": 2, "logging_steps": 2})
    finetune(base, CONVERSATIONS, tmp_path / "out", options, checkpoints=tmp_path / "c", on_progress=seen.append)
    assert [one.metrics["step"] for one in seen if one.stage == "training"] == [2, 4]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"warmup_ratio": 0.1}, "'constant' has no warm-up; use 'constant_with_warmup'"),
        ({"warmup_steps": 3}, "'constant' has no warm-up; use 'constant_with_warmup'"),
        ({"warmup_ratio": 0.1, "warmup_steps": 3, "lr_scheduler": "linear"}, "both given; leave one out"),
        ({"use_dora": True, "method": "full"}, "use_dora is true, but method is 'full'"),
        ({"use_rslora": True, "method": "full"}, "use_rslora is true, but method is 'full'"),
        ({"lora_target_modules": ("q_proj",)}, "choose from 'W_pack', 'o_proj'"),
        ({"lora_target_modules": ()}, "choose from 'W_pack', 'o_proj'"),
        ({"adam_beta1": 1.0}, "adam_beta1 is 1.0; it must be below 1"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'; use one of 'adamw'"),
        ({"save_strategy": "no"}, "save_strategy is 'no'; use one of 'steps', 'epoch'"),
        ({"lr_scheduler": "reduce_lr_on_plateau"}, "lr_scheduler is 'reduce_lr_on_plateau'"),
        ({"max_steps": 0}, "max_steps is 0; it must be at least 1"),
    ],
)
def test_options_without_effect_are_rejected(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FinetuningOptions(**wrong)


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw", "paged_adamw_8bit"])
def test_optimizers_for_gpus_are_rejected_on_a_cpu(base: Path, tmp_path: Path, optimizer: str) -> None:
    with pytest.raises(UnsupportedError, match="requires a CUDA device; use 'adamw'"):
        tune(base, tmp_path, optimizer=optimizer)


def test_presets(base: Path, tmp_path: Path) -> None:
    published = FinetuningOptions.from_preset("baichuan2-published", epochs=1)
    assert (published.lora_rank, published.lora_alpha, published.adam_beta2) == (1, 32, 0.98)
    assert (published.lr_scheduler, published.gradient_checkpointing, published.epochs) == ("constant", True, 1)
    for name in PRESETS:
        quick = {key: value for key, value in QUICK.items() if key in ("device", "dtype", "max_length")}
        options = FinetuningOptions.from_preset(name, **quick, max_steps=1, batch_size=2)
        report = finetune(base, CONVERSATIONS, tmp_path / name, options, checkpoints=tmp_path / f"{name}-c")
        assert report.steps == 1
    with pytest.raises(ValueError, match="preset is 'best'; use one of 'baichuan2-published', 'recommended'"):
        FinetuningOptions.from_preset("best")


def test_the_best_evaluation_becomes_the_result(base: Path, tmp_path: Path) -> None:
    """The learning rate is far too high, so that the loss on the validation examples is lowest early."""
    seen: list[Progress] = []
    change = {"method": "full", "epochs": 6, "learning_rate": 0.03, "validation_split": 0.25, "save_total_limit": 1}
    report = finetune(
        base, CONVERSATIONS, tmp_path / "out", FinetuningOptions(**QUICK | change),
        checkpoints=tmp_path / "checkpoints", records=tmp_path / "records", on_progress=seen.append,
    )  # fmt: skip
    losses = {one.metrics["step"]: one.metrics["eval_loss"] for one in seen if one.stage == "evaluating"}
    assert len(losses) == 6
    best = min(losses, key=lambda step: losses[step])
    assert (report.best_step, report.best_eval_loss) == (best, losses[best])
    assert (report.examples, report.validation_examples) == (12, 4)
    assert best < report.steps
    result = load_file(tmp_path / "out" / "model.safetensors")
    kept = load_file(tmp_path / "checkpoints" / f"checkpoint-{int(best)}" / "model.safetensors")
    assert not differs(result, kept)
    series = [json.loads(line) for line in (tmp_path / "records" / "series.jsonl").read_text().splitlines()]
    assert {entry["step"]: entry["eval_loss"] for entry in series if "eval_loss" in entry} == losses
    training = [entry for entry in series if "loss" in entry]
    assert [entry["step"] for entry in training] == list(range(1, report.steps + 1))
    names = {"loss", "grad_norm", "learning_rate", "epoch", "step"}
    names |= {"tokens_per_second", "samples_per_second", "memory_bytes", "eta_seconds"}
    assert all(names <= entry.keys() for entry in training)
    assert (tmp_path / "records" / "training.png").stat().st_size > 1000


def test_training_ends_early_when_the_evaluation_gets_worse(base: Path, tmp_path: Path) -> None:
    change = {"method": "full", "epochs": 40, "learning_rate": 0.03, "eval_steps": 1, "early_stopping_patience": 2}
    report = finetune(
        base, CONVERSATIONS, tmp_path / "out", FinetuningOptions(**QUICK | change),
        checkpoints=tmp_path / "checkpoints", validation_data=CONVERSATIONS,
    )  # fmt: skip
    assert report.stopped_early
    assert report.best_step == report.steps - 2


@pytest.mark.parametrize("name", ["eval_steps", "early_stopping_patience"])
def test_evaluation_options_without_validation_data_are_rejected(base: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=f"{name} is set, but there are no examples to evaluate on"):
        tune(base, tmp_path, **{name: 1})


def test_validation_data_in_another_format_is_rejected(base: Path, tmp_path: Path) -> None:
    other = tmp_path / "text.jsonl"
    other.write_text('{"text": "some text to learn"}')
    with pytest.raises(DatasetError, match="validation data is in the format 'text' and the training data in 'pub"):
        finetune(
            base, CONVERSATIONS, tmp_path / "out", FinetuningOptions(**QUICK), checkpoints=tmp_path / "c",
            validation_data=other,
        )  # fmt: skip


def test_a_resume_point_of_another_run_is_rejected_with_what_differs(base: Path, tmp_path: Path) -> None:
    tune(base, tmp_path, save_steps=1)
    last = find_latest_resume_point(tmp_path / "checkpoints")
    data = tmp_path / "other.json"
    data.write_text(json.dumps(json.loads(CONVERSATIONS.read_text())[:-1]))
    stranger = make_tiny_checkpoint(tmp_path / "stranger", seed=5)
    cases: list[tuple[Path, Path, dict[str, Any], str]] = [
        (base, CONVERSATIONS, {"learning_rate": 1e-3}, r"learning_rate was 0.01 and is now 0.001\. Resume with"),
        (base, CONVERSATIONS, {"seed": 1, "epochs": 2}, "epochs was 1 and is now 2; seed was 42 and is now 1"),
        (base, data, {}, "the training data is different"),
        (stranger, CONVERSATIONS, {}, "the base checkpoint is different"),
    ]
    for number, (checkpoint, examples, change, message) in enumerate(cases):
        with pytest.raises(CheckpointError, match=f"belongs to another run: .*{message}"):
            finetune(
                checkpoint, examples, tmp_path / f"out-{number}", FinetuningOptions(**QUICK | change),
                checkpoints=tmp_path / "checkpoints", resume_from=last,
            )  # fmt: skip
    free = FinetuningOptions(**QUICK | {"save_steps": 7, "logging_steps": 2})
    report = finetune(
        base, CONVERSATIONS, tmp_path / "same", free, checkpoints=tmp_path / "checkpoints", resume_from=last
    )
    assert report.resumed_from_step == 2


def test_a_run_that_diverges_stops_at_its_step_and_keeps_the_resume_point_before(base: Path, tmp_path: Path) -> None:
    change = {"method": "full", "learning_rate": 1e38, "save_steps": 1, "max_grad_norm": 0, "logging_steps": 50}
    with pytest.raises(TrainingDivergedError, match=r"the loss is nan at step 2"):
        finetune(base, CONVERSATIONS, tmp_path / "out", FinetuningOptions(**QUICK | change), checkpoints=tmp_path / "c")
    last = find_latest_resume_point(tmp_path / "c")
    assert last is not None
    assert last.name == "checkpoint-1"


def test_too_little_memory_is_reported_before_the_model_is_loaded(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("baichuan_core.memory.free_bytes", lambda _: 1000)
    monkeypatch.setattr("baichuan_core.memory.total_bytes", lambda _: 1000)
    monkeypatch.setattr("baichuan_core.finetuning.trainable.load_model", None)
    with pytest.raises(InsufficientMemoryError, match=r"needs at least .* GiB of memory, but cpu has"):
        tune(base, tmp_path)


@pytest.mark.parametrize(("total", "kind"), [(2**40, MemoryOccupiedError), (2**16, InsufficientMemoryError)])
def test_out_of_memory_during_the_run_has_the_numbers_of_the_estimate(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: int, kind: type[Exception]
) -> None:
    monkeypatch.setattr("baichuan_core.memory.total_bytes", lambda _: total)

    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    monkeypatch.setattr("baichuan_core.finetuning.trainer.BaichuanTrainer.training_step", fail)
    with pytest.raises(kind, match=r"cpu ran out of memory: the estimate was .* GiB, .*; use a smaller batch_size"):
        tune(base, tmp_path)


def test_tensorboard_files_are_written_if_the_package_is_installed(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, float, int]] = []

    class Writer:
        """Stands in for torch's, which needs the package."""

        def __init__(self, folder: str) -> None:
            assert Path(folder) == tmp_path / "records" / "tensorboard"

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

    monkeypatch.setattr("baichuan_core.finetuning.records.find_spec", lambda _: object())
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    finetune(
        base, CONVERSATIONS, tmp_path / "out", FinetuningOptions(**QUICK), checkpoints=tmp_path / "checkpoints",
        records=tmp_path / "records",
    )  # fmt: skip
    assert [step for name, _, step in written if name == "loss"] == [1, 2]
    assert {"grad_norm", "learning_rate", "tokens_per_second"} <= {name for name, *_ in written}


def test_several_files_are_mixed_by_their_weights(base: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps({"instruction": f"say {n}", "output": f"{n}"}) for n in range(4)))
    options = FinetuningOptions(**QUICK)

    def run(name: str, weights: dict[Path | str, float], **change: Any) -> Any:
        chosen = replace(options, **change)
        return finetune(base, weights, tmp_path / name, chosen, checkpoints=tmp_path / f"{name}-checkpoints")

    mixed = run("mixed", {CONVERSATIONS: 0.5, other: 3})
    assert (mixed.examples, mixed.data_format) == (16 // 2 + 3 * 4, "alpaca, published")
    split = run("split", {CONVERSATIONS: 1, other: 2.5}, validation_split=0.25)
    assert (split.examples, split.validation_examples) == (12 + 2 * 3 + 2, 4 + 1)
    with pytest.raises(DatasetError, match="has the weight 0; a weight must be a finite number above 0"):
        run("none", {CONVERSATIONS: 0})
