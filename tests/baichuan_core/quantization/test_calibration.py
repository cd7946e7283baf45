"""Calibrated checkpoints: same format and size as plain ones, better outputs, and exact resuming."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from baichuan_core import (
    BaichuanForCausalLM,
    CheckpointError,
    DatasetError,
    Progress,
    QuantizationOptions,
    TokenizerError,
    load_tokenizer,
    quantize,
)
from baichuan_core.checkpoint import TensorReader, load_model, read_config
from baichuan_core.likelihood import encode_plain_text, load_calibration_text, load_held_out_text
from baichuan_core.quantization import Calibration
from baichuan_core.quantization.calibration import read_calibration_rows
from baichuan_core.quantization.calibration.one_block import SingleBlockDecoder
from examples.tiny_checkpoint import Family, make_tiny_checkpoint

CALIBRATION = Calibration(sequences=8, length=256)
PLAIN = QuantizationOptions("nf4", compute_dtype="float32")
CALIBRATED = replace(PLAIN, calibration=CALIBRATION)
DIE_AFTER_THE_FIRST_BLOCK = """
import os, signal, sys
import torch
from baichuan_core import QuantizationOptions, quantize
from baichuan_core.quantization import Calibration

def die(progress):
    if progress.metrics.get("block") == 1:
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint, output, checkpoints = sys.argv[1:]
torch.set_num_threads(1)
options = QuantizationOptions("nf4", compute_dtype="float32", calibration=Calibration(sequences=8, length=256))
quantize(checkpoint, output, options, checkpoints=checkpoints, on_progress=die)
"""
MakeCheckpoint = Callable[..., Path]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a tiny Baichuan 2 7B whose layers change their inputs noticeably, like those of trained models."""
    return enlivened(make_tiny_checkpoint(tmp_path_factory.mktemp("tiny")))


def enlivened(checkpoint: Path) -> Path:
    """Enlarge the weights and make the inputs unequal; in a fresh model, all roundings are equally good."""
    file = checkpoint / "model.safetensors"
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: tensor * 4 if "_proj" in name or "W_pack" in name else tensor for name, tensor in load_file(file).items()
    }
    norms = [name for name in weights if name.endswith("layernorm.weight")]
    weights |= {name: torch.randn(len(weights[name]), generator=generator).exp() for name in norms}
    save_file(weights, file, metadata={"format": "pt"})
    return checkpoint


def held_out(checkpoint: Path) -> Tensor:
    """Return token ids [4, 256] that calibration does not use."""
    return torch.tensor(encode_plain_text(load_tokenizer(checkpoint), load_held_out_text())[: 4 * 256]).reshape(4, 256)


@torch.no_grad()
def output_error(checkpoint: Path, quantized: Path) -> float:
    """Return |logits - exact logits| / |exact logits| on the held-out text, loaded with plain `from_pretrained`."""
    ids = held_out(checkpoint)
    exact = load_model(checkpoint, device="cpu")(ids).logits
    model = AutoModelForCausalLM.from_pretrained(quantized)
    assert isinstance(model, BaichuanForCausalLM)
    return float((model(ids).logits - exact).norm() / exact.norm())


@pytest.mark.parametrize(
    ("family", "method"), [("baichuan1-7b", "fp4"), ("baichuan2-7b", "nf4"), ("baichuan2-13b", "nf4")]
)
def test_same_format_and_size_as_plain_with_better_outputs(tmp_path: Path, family: Family, method: str) -> None:
    checkpoint = enlivened(make_tiny_checkpoint(tmp_path / "base", family=family))
    plain = QuantizationOptions(method, compute_dtype="float32")  # type: ignore[arg-type]
    quantize(checkpoint, tmp_path / "plain", plain)
    quantize(checkpoint, tmp_path / "calibrated", replace(plain, calibration=CALIBRATION))
    files = [tmp_path / name / "model.safetensors" for name in ("plain", "calibrated")]
    assert files[0].stat().st_size == files[1].stat().st_size
    one, other = map(load_file, files)
    assert [(name, tensor.shape, tensor.dtype) for name, tensor in one.items()] == [
        (name, tensor.shape, tensor.dtype) for name, tensor in other.items()
    ]
    assert not any(torch.equal(one[name], other[name]) for name in one if name.endswith("_proj.weight"))
    assert output_error(checkpoint, tmp_path / "calibrated") < 0.66 * output_error(checkpoint, tmp_path / "plain")


def test_reports_errors_and_progress_of_every_block(tiny: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    options = replace(CALIBRATED, quantize_head=True, double_quantization=False)
    report = quantize(tiny, tmp_path / "calibrated", options, on_progress=seen.append)
    assert [one.metrics["block"] for one in seen if one.stage == "calibrating"] == [1, 2]
    assert all(one.fraction <= later.fraction for one, later in itertools.pairwise(seen))
    assert seen[-1].fraction == 1
    weights = load_file(tmp_path / "calibrated" / "model.safetensors")
    assert weights["model.layers.0.mlp.up_proj.weight.absmax"].dtype == torch.float32
    assert weights["lm_head.weight"].dtype == torch.int8
    assert len(report.relative_errors) == 12
    assert all(0 < error < 0.3 for error in report.relative_errors.values())
    assert {path.name for path in (tmp_path / "calibrated").iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.model",
        "tokenizer_config.json",
    }


def test_reported_errors_equal_those_of_the_loaded_weights(tiny: Path, tmp_path: Path) -> None:
    report = quantize(tiny, tmp_path / "calibrated", CALIBRATED)
    layer = load_model(tmp_path / "calibrated", device="cpu").model.layers[1].mlp.down_proj
    with torch.no_grad():
        restored = layer(torch.eye(layer.in_features)).T
    exact = load_file(tiny / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    error = (restored - exact).norm() / exact.norm()
    assert report.relative_errors["model.layers.1.mlp.down_proj.weight"] == pytest.approx(float(error), rel=1e-3)


def test_a_killed_and_resumed_run_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", DIE_AFTER_THE_FIRST_BLOCK, tiny, tmp_path / "killed", tmp_path / "first"]
    killed = subprocess.run(
        [str(part) for part in command],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "killed").exists()
    (tmp_path / "first" / "block-00001.safetensors.partial").write_bytes(b"what a kill in the middle of it leaves")
    seen: list[Progress] = []
    quantize(
        tiny,
        tmp_path / "resumed",
        CALIBRATED,
        checkpoints=tmp_path / "second",
        resume_from=tmp_path / "first",
        on_progress=seen.append,
    )
    assert [one.metrics["block"] for one in seen if one.stage == "calibrating"] == [2]
    quantize(tiny, tmp_path / "whole", CALIBRATED)
    whole, resumed = (tmp_path / name / "model.safetensors" for name in ("whole", "resumed"))
    assert whole.read_bytes() == resumed.read_bytes()


def test_resumes_in_its_own_folder_and_rejects_that_of_another_run(tiny: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    quantize(tiny, tmp_path / "one", CALIBRATED, checkpoints=kept)
    seen: list[Progress] = []
    quantize(tiny, tmp_path / "again", CALIBRATED, checkpoints=kept, on_progress=seen.append)
    assert "calibrating" not in {one.stage for one in seen}
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (
        tmp_path / "again" / "model.safetensors"
    ).read_bytes()
    other = replace(CALIBRATED, calibration=replace(CALIBRATION, sequences=9))
    with pytest.raises(CheckpointError, match="blocks from a different calibration"):
        quantize(tiny, tmp_path / "other", other, checkpoints=kept)
    with pytest.raises(CheckpointError, match="blocks from a different calibration"):
        quantize(tiny, tmp_path / "other", other, checkpoints=tmp_path / "new", resume_from=kept)
    (kept / "block-00000.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"block-00000.*is damaged"):
        quantize(tiny, tmp_path / "other", CALIBRATED, checkpoints=kept)


def test_rows_depend_on_the_seed(tiny: Path, tmp_path: Path) -> None:
    outputs = {}
    for name, seed in (("first", 0), ("second", 0), ("third", 1)):
        options = replace(CALIBRATED, calibration=replace(CALIBRATION, seed=seed))
        quantize(tiny, tmp_path / name, options)
        outputs[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert outputs["first"] == outputs["second"] != outputs["third"]


def test_a_file_and_its_token_ids_give_the_same_result(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text(load_calibration_text()[:12000], encoding="utf-8")
    ids = encode_plain_text(load_tokenizer(tiny), load_calibration_text()[:12000])
    results = []
    for name, calibration in (
        ("text", Calibration(text=tmp_path / "mine.txt", sequences=8, length=256)),
        ("ids", Calibration(token_ids=[ids[:1000], ids[1000:]], sequences=8, length=256)),
        ("built-in", CALIBRATION),
    ):
        quantize(tiny, tmp_path / name, replace(PLAIN, calibration=calibration))
        results.append((tmp_path / name / "model.safetensors").read_bytes())
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize(
    ("fraction", "own_rows", "expected"), [(0.0, 8, (8, 0)), (0.25, 8, (6, 2)), (0.25, 4, (4, 1)), (0.01, 8, (8, 0))]
)
def test_a_fraction_of_the_rows_is_built_in(
    tiny: Path, fraction: float, own_rows: int, expected: tuple[int, int]
) -> None:
    tokenizer, length = load_tokenizer(tiny), 512
    ids = encode_plain_text(tokenizer, load_held_out_text())[: own_rows * length]
    calibration = Calibration(token_ids=[ids], sequences=8, length=length, built_in_fraction=fraction)
    rows = {tuple(row) for row in read_calibration_rows(tiny, read_config(tiny), calibration).tolist()}
    texts = (ids, encode_plain_text(tokenizer, load_calibration_text()))
    cut = [{tuple(text[start : start + length]) for start in range(0, len(text), length)} for text in texts]
    assert (len(rows & cut[0]), len(rows & cut[1])) == expected
    assert len(rows) == sum(expected)


def test_qlora_trains_on_the_result(tiny: Path, tmp_path: Path) -> None:
    quantize(tiny, tmp_path / "calibrated", CALIBRATED)
    base = load_model(tmp_path / "calibrated", device="cpu")
    model = get_peft_model(base, LoraConfig(target_modules=["W_pack"], r=4))
    ids = held_out(tiny)
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=1.0)
    losses = []
    for _ in range(4):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (Calibration(token_ids=[list(range(100))]), "needs at least 2048 tokens"),
        (Calibration(sequences=1), "needs at least 2048 tokens"),
        (Calibration(token_ids=[]), "needs at least 2048 tokens"),
        (Calibration(token_ids=[[300] * 9000]), "has only 1 distinct tokens"),
        (Calibration(token_ids=[list(range(1025)) * 9]), "only 1024 embeddings: use the tokenizer"),
        (Calibration(token_ids=[[-1, *range(1000)] * 9]), "token ids from -1"),
        (Calibration(text="nowhere.txt"), "nowhere.txt cannot be read"),
    ],
)
def test_unusable_data_is_rejected(tiny: Path, tmp_path: Path, calibration: Calibration, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        quantize(tiny, tmp_path / "output", replace(PLAIN, calibration=calibration))
    assert not (tmp_path / "output").exists()


def test_int8_keeps_more_inputs_as_floats(tmp_path: Path) -> None:
    checkpoint, plain = make_tiny_checkpoint(tmp_path / "base"), QuantizationOptions("int8")
    seen: list[Progress] = []
    quantize(checkpoint, tmp_path / "plain", plain)
    quantize(checkpoint, tmp_path / "calibrated", replace(plain, calibration=CALIBRATION), on_progress=seen.append)
    thresholds = [
        read_config(tmp_path / name).quantization_config["llm_int8_threshold"] for name in ("plain", "calibrated")
    ]
    assert 0 < thresholds[1] < thresholds[0] == 6
    assert [one.metrics["block"] for one in seen if one.stage == "calibrating"] == [1, 2]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "calibrated")]
    assert weights[0] == weights[1]
    assert output_error(checkpoint, tmp_path / "calibrated") < output_error(checkpoint, tmp_path / "plain")


def test_invalid_calibrations_are_rejected(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    (checkpoint / "tokenizer.model").unlink()
    with pytest.raises(TokenizerError, match="is missing: copy tokenizer"):
        quantize(checkpoint, tmp_path / "output", CALIBRATED)
    with pytest.raises(ValueError, match="pass only one of them"):
        Calibration(text="a", token_ids=[[1]])
    with pytest.raises(ValueError, match="at least 1 sequence of at least 2"):
        Calibration(sequences=0)
    with pytest.raises(ValueError, match="at least 0 and less than 1"):
        Calibration(built_in_fraction=1.0)


@pytest.mark.parametrize("weight", ["model.embed_tokens", "model.layers.1.mlp.gate_proj"])
def test_nan_in_the_statistics_is_rejected(tmp_path: Path, weight: str) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "base")
    tensors = load_file(checkpoint / "model.safetensors")
    tensors[f"{weight}.weight"][:] = torch.nan
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="produces NaN or infinite values"):
        quantize(checkpoint, tmp_path / "output", CALIBRATED)
    assert not (tmp_path / "output").exists()


@torch.no_grad()
def test_one_block_computes_the_same_as_the_model(family: Path, load: Callable[..., BaichuanForCausalLM]) -> None:
    model = load(family)
    states = model.model(torch.arange(5, 29)[None], output_hidden_states=True).hidden_states
    block = SingleBlockDecoder(model.config, torch.device("cpu"))
    with TensorReader(family) as reader:
        for number in range(model.config.num_hidden_layers - 1):
            block.load(reader, number)
            after = block.run_mlp(block.run_attention(states[number]))
            torch.testing.assert_close(after, states[number + 1])
