"""The summary of a checkpoint that is not loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from baichuan_core import BaichuanForCausalLM, CheckpointError, QuantizationOptions, quantize
from baichuan_core.checkpoint import inspect_checkpoint

MakeCheckpoint = Callable[..., Path]


def test_the_summary_equals_the_loaded_model(
    family: Path, load: Callable[..., BaichuanForCausalLM], tmp_path: Path
) -> None:
    shutil.copyfile(family / "model.safetensors", tmp_path / "model.safetensors")
    config = json.loads((family / "config.json").read_text()) | {"norm_head": family.name.startswith("baichuan2")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    summary = inspect_checkpoint(tmp_path)
    model = load(family)
    assert summary.parameters == sum(weight.numel() for weight in model.parameters())
    assert summary.position_embedding == ("rope" if "7b" in family.name else "alibi")
    assert (summary.context_length, summary.quantization, summary.has_tokenizer) == (128, None, False)
    assert summary.weight_bytes == (family / "model.safetensors").stat().st_size


@pytest.mark.parametrize("method", ["int8", "nf4", "fp4"])
def test_quantized_checkpoint_names_its_method(make_checkpoint: MakeCheckpoint, tmp_path: Path, method: str) -> None:
    checkpoint = make_checkpoint()
    quantize(checkpoint, tmp_path / "quantized", QuantizationOptions(method))  # type: ignore[arg-type]
    summary = inspect_checkpoint(tmp_path / "quantized")
    assert (summary.quantization, summary.has_tokenizer) == (method, True)
    assert summary.parameters == inspect_checkpoint(checkpoint).parameters


def test_broken_checkpoint_is_refused(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint()
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has no weights"):
        inspect_checkpoint(checkpoint)
