"""Conversions keep the logits."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from baichuan_core import CheckpointError, Progress, UnsupportedError, convert

MakeCheckpoint = Callable[..., Path]


@pytest.fixture
def with_norm_head(golden_root: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A golden Baichuan 2 checkpoint with `norm_head` in its config.json; its vocabulary is too small to infer it."""

    def copy(family: str) -> Path:
        checkpoint = Path(shutil.copytree(golden_root / family, tmp_path / family))
        config = json.loads((checkpoint / "config.json").read_text())
        (checkpoint / "config.json").write_text(json.dumps(config | {"norm_head": True}))
        shutil.copyfile(golden_root / "chat" / "tokenizer.model", checkpoint / "tokenizer.model")
        return checkpoint

    return copy


@torch.no_grad()
@pytest.mark.parity
@pytest.mark.parametrize("family", ["baichuan2-7b", "baichuan2-13b"])
def test_the_baichuan1_format_has_the_published_logits(
    with_norm_head: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    checkpoint = with_norm_head(family)
    golden = load_file(checkpoint / "golden.safetensors")
    reports: list[Progress] = []
    report = convert(checkpoint, tmp_path / "converted", "baichuan1", on_progress=reports.append)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "converted")
    assert model.config.norm_head is False
    norms = torch.linalg.vector_norm(model.lm_head.weight, dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    logits = model(golden["full.input_ids"]).logits
    torch.testing.assert_close(logits, golden["normalized_head.logits"], rtol=0, atol=2e-5)
    before = AutoModelForCausalLM.from_pretrained(checkpoint)
    torch.testing.assert_close(logits, before(golden["full.input_ids"]).logits, rtol=0, atol=2e-5)
    assert report.tensors == 17
    assert (tmp_path / "converted" / "tokenizer.model").exists()
    fractions = [progress.fraction for progress in reports]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


@torch.no_grad()
def test_published_bin_shards_become_safetensors(golden_root: Path, tmp_path: Path) -> None:
    checkpoint = golden_root / "checkpoints" / "baichuan2-7b-sharded-bin-inv_freq"
    golden = load_file(checkpoint / "golden.safetensors")
    convert(checkpoint, tmp_path / "converted", "safetensors")
    files = {path.name for path in (tmp_path / "converted").iterdir()}
    assert files == {"config.json", "model.safetensors"}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "converted", norm_head=True)
    logits = model(golden["input_ids"]).logits
    torch.testing.assert_close(logits, golden["logits"], rtol=0, atol=5e-5)


@torch.no_grad()
def test_zero_rows_stay_zero_in_half_precision(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(dtype=torch.float16)
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    model.lm_head.weight[3] = 0
    model.save_pretrained(checkpoint)
    convert(checkpoint, tmp_path / "converted", "baichuan1")
    weight = load_file(tmp_path / "converted" / "model.safetensors")["lm_head.weight"]
    assert weight.dtype == torch.float16
    assert (weight[3] == 0).all()
    norms = torch.linalg.vector_norm(weight[4:].float(), dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-3)


def test_plain_head_is_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="already has the format of Baichuan 1"):
        convert(make_checkpoint(norm_head=False), tmp_path / "converted", "baichuan1")


def test_converted_checkpoint_is_not_converted_again(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    convert(make_checkpoint(), tmp_path / "converted", "baichuan1")
    with pytest.raises(UnsupportedError):
        convert(tmp_path / "converted", tmp_path / "again", "baichuan1")


def test_unknown_target_is_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="'onnx' is unknown"):
        convert(make_checkpoint(), tmp_path / "converted", "onnx")  # type: ignore[arg-type]


def test_existing_output_and_broken_input_leave_everything_unchanged(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint()
    with pytest.raises(CheckpointError, match="is not an empty directory"):
        convert(checkpoint, checkpoint, "safetensors")
    (checkpoint / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is damaged"):
        convert(checkpoint, tmp_path / "converted", "safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_tied_head_cannot_be_normalised(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="tie_word_embeddings"):
        convert(make_checkpoint(tie_word_embeddings=True), tmp_path / "converted", "baichuan1")
