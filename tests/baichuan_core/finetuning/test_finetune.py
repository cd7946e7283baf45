"""Fine-tuning runs on a tiny checkpoint, from the outside."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from baichuan_core import (
    AdapterMismatchError,
    BaichuanTokenizer,
    CheckpointError,
    DatasetError,
    FinetuningOptions,
    GenerationOptions,
    GenerationRequest,
    Progress,
    QuantizationOptions,
    TokenizerError,
    TrainingDivergedError,
    UnsupportedError,
    find_latest_resume_point,
    finetune,
    generate,
    load_model,
    quantize,
)
from baichuan_core.finetuning.hardware import Hardware
from baichuan_core.finetuning.trainable import load_trainable_model
from baichuan_core.finetuning.training import make_training_arguments
from examples.tiny_checkpoint import CONVERSATIONS, make_tiny_checkpoint

QUICK: dict[str, Any] = {
    "method": "full",
    "epochs": 2,
    "learning_rate": 1e-3,
    "batch_size": 4,
    "max_length": 128,
    "gradient_checkpointing": False,
    "dtype": "float32",
    "device": "cpu",
}
FULL = FinetuningOptions(**QUICK)
LORA = FinetuningOptions(**QUICK | {"method": "lora"})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def nf4(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("nf4") / "checkpoint"
    quantize(base, output, QuantizationOptions(method="nf4"))
    return output


def digest(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(next(directory.glob("*model.safetensors")))


def test_full_training_writes_a_complete_checkpoint_and_leaves_the_base_alone(base: Path, tmp_path: Path) -> None:
    before = digest(base)
    reports: list[Progress] = []
    report = finetune(
        base, CONVERSATIONS, tmp_path / "tuned", FULL, checkpoints=tmp_path / "ck", on_progress=reports.append
    )
    assert digest(base) == before
    assert (report.steps, report.examples, report.dropped_examples) == (8, 16, 0)
    steps = [one.metrics for one in reports if one.stage == "training"]
    assert [one["step"] for one in steps] == list(range(1, 9))
    assert steps[-1]["loss"] == report.final_loss < steps[0]["loss"]
    assert max(one["learning_rate"] for one in steps) == pytest.approx(1e-3, rel=0.1)
    assert all(one["tokens_per_second"] > 0 for one in steps)
    fractions = [one.fraction for one in reports]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned")
    assert model.dtype == torch.float32
    assert model.config.norm_head
    assert model.config.use_cache
    assert type(AutoTokenizer.from_pretrained(tmp_path / "tuned")) is BaichuanTokenizer
    settings = json.loads((tmp_path / "tuned" / "generation_config.json").read_text())
    assert settings["user_token_id"] == 195


def test_the_seed_decides_the_result(base: Path, tmp_path: Path) -> None:
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        options = FinetuningOptions(**QUICK | {"seed": seed, "epochs": 1})
        finetune(base, CONVERSATIONS, tmp_path / name, options, checkpoints=tmp_path / f"ck-{name}")
    first, again, other = (weights(tmp_path / name) for name in ("first", "again", "other"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_packing_changes_nothing_but_time(base: Path, tmp_path: Path, method: str, accumulation: int) -> None:
    """Without dropout, which depends on shapes, and with a large epsilon, because AdamW magnifies rounding."""
    change: dict[str, Any] = {"method": method, "lora_dropout": 0.0, "gradient_accumulation_steps": accumulation}
    change["adam_epsilon"] = 1e-3
    losses: dict[str, list[float]] = {}
    reports = {}
    for name, packing in (("packed", True), ("plain", False)):
        options = FinetuningOptions(**QUICK | change | {"packing": packing})
        seen: list[Progress] = []
        reports[name] = finetune(
            base, CONVERSATIONS, tmp_path / name, options, checkpoints=tmp_path / f"{name}-checkpoints",
            on_progress=seen.append,
        )  # fmt: skip
        losses[name] = [one.metrics["loss"] for one in seen if one.stage == "training"]
    assert losses["packed"] == pytest.approx(losses["plain"], rel=1e-5)
    assert (reports["packed"].packing, reports["plain"].packing) == (True, False)
    assert reports["packed"].steps == reports["plain"].steps
    assert 1 >= reports["packed"].filled > reports["plain"].filled > 0
    packed, plain = weights(tmp_path / "packed"), weights(tmp_path / "plain")
    for tensor_name, tensor in plain.items():
        assert (packed[tensor_name] - tensor).norm() <= 1e-5 * tensor.norm(), tensor_name


def test_several_visible_devices_do_not_cause_data_parallel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda _: 2))
    arguments = make_training_arguments(FULL, Hardware("cpu", bfloat16=False), tmp_path)
    assert arguments._n_gpu == 1


@pytest.mark.parametrize(
    "change",
    [{"gradient_checkpointing": True}, {"batch_size": 2, "gradient_accumulation_steps": 2}],
    ids=["gradient checkpointing", "accumulation"],
)
def test_ways_to_save_memory_change_nothing_but_rounding(base: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    plain = finetune(base, CONVERSATIONS, tmp_path / "plain", FULL, checkpoints=tmp_path / "ck1")
    saving = FinetuningOptions(**QUICK | change)
    saved = finetune(base, CONVERSATIONS, tmp_path / "saved", saving, checkpoints=tmp_path / "ck2")
    assert saved.final_loss == pytest.approx(plain.final_loss, rel=1e-3)


def test_mixed_precision_keeps_the_dtype_of_the_base(base: Path, tmp_path: Path) -> None:
    options = FinetuningOptions(**QUICK | {"dtype": "bfloat16"})
    report = finetune(base, CONVERSATIONS, tmp_path / "tuned", options, checkpoints=tmp_path / "ck")
    assert report.final_loss < 7
    assert {tensor.dtype for tensor in weights(tmp_path / "tuned").values()} == {torch.float32}


def test_lora_writes_an_adapter_that_works_on_its_base_only(base: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    options = FinetuningOptions(**QUICK | {"method": "lora", "learning_rate": 5e-2, "epochs": 4})
    report = finetune(base, CONVERSATIONS, adapter, options, checkpoints=tmp_path / "ck")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["W_pack"]
    assert settings["r"] == options.lora_rank
    assert report.trained_parameters == sum(tensor.numel() for tensor in weights(adapter).values())
    assert {"tokenizer.model", "baichuan_base.json"} <= {path.name for path in adapter.iterdir()}

    requests = [GenerationRequest(messages=[{"role": "user", "content": "你是谁？"}])]
    greedy = GenerationOptions(temperature=0, max_new_tokens=16)
    generate(base, requests, tmp_path / "without.jsonl", greedy)
    generate(base, requests, tmp_path / "with.jsonl", greedy, adapter=adapter)
    assert (tmp_path / "with.jsonl").read_text() != (tmp_path / "without.jsonl").read_text()

    stranger = make_tiny_checkpoint(tmp_path / "stranger", seed=5)
    with pytest.raises(AdapterMismatchError):
        generate(stranger, requests, tmp_path / "none.jsonl", greedy, adapter=adapter)
    assert not (tmp_path / "none.jsonl").exists()


def test_a_quantized_base_supports_an_adapter_but_not_full_training(nf4: Path, tmp_path: Path) -> None:
    report = finetune(nf4, CONVERSATIONS, tmp_path / "adapter", LORA, checkpoints=tmp_path / "ck")
    assert report.final_loss > 0
    requests = [GenerationRequest(prompt="Who")]
    options = GenerationOptions(max_new_tokens=4)
    assert generate(nf4, requests, tmp_path / "out.jsonl", options, adapter=tmp_path / "adapter").requests == 1
    with pytest.raises(UnsupportedError, match="use method 'lora'"):
        finetune(nf4, CONVERSATIONS, tmp_path / "tuned", FULL, checkpoints=tmp_path / "ck2")


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_nothing(base: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in base.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    tensors = weights(broken)
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingDivergedError, match="step 1"):
        finetune(broken, CONVERSATIONS, tmp_path / "tuned", FULL, checkpoints=tmp_path / "ck")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "ck") == ["broken"]


def test_unsupported_runs_are_rejected_before_training(base: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").touch()
    with pytest.raises(CheckpointError, match="not an empty directory"):
        finetune(base, CONVERSATIONS, taken, FULL, checkpoints=tmp_path / "ck")
    with pytest.raises(CheckpointError, match="not a complete resume point"):
        finetune(base, CONVERSATIONS, tmp_path / "new", FULL, checkpoints=tmp_path / "ck", resume_from=taken)
    finetune(base, CONVERSATIONS, tmp_path / "adapter", LORA, checkpoints=tmp_path / "lora")
    last = find_latest_resume_point(tmp_path / "lora")
    with pytest.raises(CheckpointError, match="method was 'lora' and is now 'full'"):
        finetune(base, CONVERSATIONS, tmp_path / "new", FULL, checkpoints=tmp_path / "ck", resume_from=last)
    with pytest.raises(CheckpointError, match="cannot be created"):
        finetune(base, CONVERSATIONS, tmp_path / "new", FULL, checkpoints=taken / "file")
    long = FinetuningOptions(max_length=4096)
    with pytest.raises(DatasetError, match="at most 512"):
        finetune(base, CONVERSATIONS, tmp_path / "new", long, checkpoints=tmp_path / "ck")
    other_device = FinetuningOptions(device="cuda:3")
    with pytest.raises(UnsupportedError, match="CUDA_VISIBLE_DEVICES"):
        finetune(base, CONVERSATIONS, tmp_path / "new", other_device, checkpoints=tmp_path / "ck")
    assert not (tmp_path / "new").exists()


def test_a_base_without_a_tokenizer_is_rejected(base: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((base / name).read_bytes())
    with pytest.raises(TokenizerError, match=r"tokenizer\.model"):
        finetune(tmp_path, CONVERSATIONS, tmp_path / "new", FULL, checkpoints=tmp_path / "ck")


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"epochs": 0},
        {"epochs": float("nan")},
        {"lora_dropout": 1.0},
        {"learning_rate": -1.0},
        {"method": "qlora"},
        {"lr_scheduler": "stairs"},
        {"dtype": "float16"},
    ],
)
def test_options_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FinetuningOptions(**wrong)


@torch.no_grad()
@pytest.mark.parametrize("method", ["int8", "nf4"])
def test_an_untrained_dora_adapter_on_a_quantized_base_computes_as_the_base(
    base: Path, tmp_path: Path, method: Literal["int8", "nf4"]
) -> None:
    quantize(base, tmp_path / "base", QuantizationOptions(method))
    options = FinetuningOptions(**QUICK | {"method": "lora", "use_dora": True})
    model, ids = (
        load_trainable_model(tmp_path / "base", options, Hardware.from_options(options)),
        torch.tensor([[5, 6, 7, 8, 9]]),
    )
    wanted = load_model(tmp_path / "base", dtype="float32", device="cpu")(ids).logits
    for training in (False, True, False):  # bitsandbytes packs 4-bit weights in a forward pass outside training
        logits = model.train(training)(input_ids=ids).logits
        torch.testing.assert_close(logits, wanted, rtol=0, atol=0.05)
