"""Quantizing while loading: same model as the written checkpoint, bounded memory, any device map."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from baichuan_core import BaichuanConfig, QuantizationOptions, UnsupportedError, load_model, quantize
from baichuan_core.checkpoint import expected_tensors, tensor_writer
from baichuan_core.model.chunked_loss import LinearHead
from baichuan_core.model.quantization import QuantizationMethod

MakeCheckpoint = Callable[..., Path]
IDS = torch.arange(5, 29)[None]
MIB = 2**20
SHARD_BYTES = 24 * MIB


@torch.no_grad()
@pytest.mark.parametrize("method", ["int8", "nf4", "fp4"])
@pytest.mark.parametrize("quantize_head", [False, True])
@pytest.mark.parametrize("place", [{"device": "cpu"}, {"device_map": "auto"}, {"device_map": {"": "cpu"}}], ids=str)
def test_the_model_equals_the_written_checkpoint(
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    method: QuantizationMethod,
    quantize_head: bool,
    place: dict[str, Any],
) -> None:
    checkpoint = make_checkpoint(dtype=torch.bfloat16)
    quantize(checkpoint, tmp_path / "written", QuantizationOptions(method, quantize_head=quantize_head))
    model = load_model(checkpoint, quantization=method, quantize_head=quantize_head, **place)
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "written")
    expected = written.state_dict()
    streamed = model.state_dict()
    assert streamed.keys() == expected.keys()
    assert all(torch.equal(streamed[name], expected[name]) for name in expected)
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert again.config.to_diff_dict() == written.config.to_diff_dict()
    logits = model(IDS).logits
    assert torch.equal(again(IDS).logits, logits)
    assert torch.equal(written(IDS).logits, logits)


@torch.no_grad()
@pytest.mark.parametrize("storage", ["uint8", "bfloat16"])
def test_custom_settings_give_the_same_result_as_transformers(make_checkpoint: MakeCheckpoint, storage: str) -> None:
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_compute_dtype="float32", bnb_4bit_quant_storage=storage
    )
    checkpoint = make_checkpoint(dtype=torch.bfloat16)
    ours = load_model(checkpoint, device="cpu", dtype="float32", quantization=settings)
    theirs: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, quantization_config=settings)
    expected = theirs.state_dict()
    for name, tensor in ours.state_dict().items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor.view(torch.uint8), expected[name].view(torch.uint8)), name  # codes may look like NaN
    assert torch.equal(ours(IDS).logits, theirs(IDS).logits)


@torch.no_grad()
def test_skipped_modules_still_leave_the_head_unquantized(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=["o_proj"])
    model: Any = load_model(make_checkpoint(), device="cpu", quantization=settings)
    assert type(model.lm_head) is LinearHead
    assert type(model.model.layers[0].self_attn.o_proj) is torch.nn.Linear
    model.save_pretrained(tmp_path / "saved")
    again = load_model(tmp_path / "saved", device="cpu")
    assert torch.equal(again(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("settings", [{}, {"load_in_8bit": True, "llm_int8_has_fp16_weight": True}])
def test_settings_that_quantize_nothing_are_rejected(
    make_checkpoint: MakeCheckpoint, settings: dict[str, bool]
) -> None:
    with pytest.raises(UnsupportedError, match=r"omit quantization|do not set it"):
        load_model(make_checkpoint(), device="cpu", quantization=BitsAndBytesConfig(**settings))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Create a bfloat16 checkpoint of about 140 MB in many shards; also return the bytes of its tensors."""
    directory = tmp_path_factory.mktemp("sharded")
    shape: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 2752, "num_hidden_layers": 5, "vocab_size": 4096}
    config = BaichuanConfig(**shape, num_attention_heads=8, norm_head=True, dtype="bfloat16")
    config.save_pretrained(directory)
    tensors = expected_tensors(config)
    generator = torch.Generator().manual_seed(0)
    with tensor_writer(directory, list(tensors), SHARD_BYTES) as writer:
        for name, size in tensors.items():
            writer.add(name, torch.randn(size, generator=generator, dtype=torch.bfloat16))
    assert len(list(directory.glob("*.safetensors"))) > 5
    return directory, writer.bytes_written


@pytest.mark.alone
@pytest.mark.parametrize("when", ["while-loading", "after-loading"])
def test_memory_is_that_of_the_quantized_model(sharded: tuple[Path, int], when: str) -> None:
    directory, dense_bytes = sharded
    script = Path(__file__).with_name("loaded_memory.py")
    process = subprocess.run(
        [sys.executable, str(script), str(directory), when],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr
    figures = json.loads(process.stdout.splitlines()[-1])
    slack = 24 * MIB
    # Two bytes per number, compared with half a byte in the blocks and one in embedding and head.
    assert figures["model"] < dense_bytes * 0.33
    if when == "while-loading":
        assert figures["peak"] - figures["before"] < figures["model"] + SHARD_BYTES + slack
    else:  # from float32 in memory, one layer after another
        assert figures["peak"] - figures["before"] < SHARD_BYTES + slack
        assert figures["before"] - figures["after"] > 2 * dense_bytes - figures["model"] - slack


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_quantized_checkpoints_get_the_requested_dtype(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, dtype: Any
) -> None:
    quantize(make_checkpoint(), tmp_path / "quantized", QuantizationOptions("int8", quantize_head=True))
    model = load_model(tmp_path / "quantized", dtype=dtype, device="cpu")
    wanted = getattr(torch, dtype)
    assert model.dtype == model.get_input_embeddings()(IDS).dtype == model(IDS).logits.dtype == wanted
    assert model.get_output_embeddings().scale.dtype == torch.float32


def test_unsupported_combinations_are_rejected(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    odd = make_checkpoint("odd", intermediate_size=176)
    quantize(checkpoint, tmp_path / "quantized", QuantizationOptions("nf4"))
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (checkpoint, {"quantization": "int3"}, "'int3' is unknown: use"),
        (tmp_path / "quantized", {"quantization": "int8"}, "already quantized: load it without"),
        (checkpoint, {"quantize_head": True}, "quantize_head requires quantization"),
        (tmp_path / "quantized", {"quantize_head": True}, "quantize_head requires quantization"),
        (checkpoint, {"device": "cpu", "device_map": "auto"}, "are both set: omit one of them"),
        (odd, {"quantization": "nf4", "device": "cpu"}, r"layers\.0\.mlp\.gate_proj\.weight has 176 output features"),
        (
            make_checkpoint("tied", tie_word_embeddings=True),
            {"quantization": "nf4", "quantize_head": True},
            "as its output head",
        ),
    ]
    for path, settings, message in cases:
        with pytest.raises(UnsupportedError, match=message):
            load_model(path, **settings)


def test_4_bit_checkpoint_without_a_kernel_here_names_the_layer(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    """Such a checkpoint can come from a GPU, whose kernels support any shape."""
    odd: Any = AutoModelForCausalLM.from_pretrained(
        make_checkpoint(intermediate_size=176), quantization_config=BitsAndBytesConfig(load_in_4bit=True)
    )
    odd.save_pretrained(tmp_path / "odd")
    with pytest.raises(UnsupportedError, match=r"layers\.0\.mlp\.gate_proj\.weight has 176 output features"):
        load_model(tmp_path / "odd", device="cpu")
