"""Quantized checkpoints come back as floats, and the published 4-bit form becomes today's."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import QuantState
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from baichuan_core import CheckpointError, QuantizationOptions, UnsupportedError, convert, load_model, quantize
from baichuan_core.checkpoint import TensorReader, linear_layers, parallel_writer, read_config
from baichuan_core.checkpoint.quantized_weights import quantize_embedding_or_head, quantize_weight
from baichuan_core.model.quantization import QuantizationMethod

MakeCheckpoint = Callable[..., Path]
MakeDeep = Callable[..., Path]
IMITATION = "baichuan2-7b-int4-imitation"


@pytest.fixture
def imitation(golden_root: Path, tmp_path: Path) -> Path:
    """The recorded imitation of a published int4 checkpoint, its head named."""
    checkpoint = Path(shutil.copytree(golden_root / "checkpoints" / IMITATION, tmp_path / IMITATION))
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"norm_head": True}))
    return checkpoint


@torch.no_grad()
@pytest.mark.parity
@pytest.mark.parametrize("by_way_of_safetensors", [False, True])
@pytest.mark.parametrize("piece_bytes", [1, 5_000, 2**20])
def test_published_int4_has_the_recorded_tensors_and_logits(
    imitation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_way_of_safetensors: bool, piece_bytes: int
) -> None:
    """In whatever pieces: rows of 288 values begin and end within blocks of 64."""
    monkeypatch.setattr(parallel_writer, "CHUNK_BYTES", piece_bytes)
    golden = load_file(imitation / "golden.safetensors")
    if by_way_of_safetensors:
        convert(imitation, tmp_path / "nf4", "safetensors")
        imitation = tmp_path / "nf4"
    convert(imitation, tmp_path / "dense", "dequantized")
    tensors = load_file(tmp_path / "dense" / "model.safetensors")
    for name, tensor in tensors.items():
        if (recorded := golden.get(f"dequantized.{name}")) is not None:
            assert tensor.dtype == torch.float16
            assert torch.equal(tensor, recorded.to(torch.float16)), name
    assert sum(name.startswith("dequantized.") for name in golden) >= 5
    model = load_model(tmp_path / "dense", dtype="float32", device="cpu")
    assert getattr(model.config, "quantization_config", None) is None
    torch.testing.assert_close(model(golden["input_ids"]).logits, golden["logits"], rtol=0, atol=5e-5)


@torch.no_grad()
@pytest.mark.parametrize("double_quantization", [True, False])
def test_published_form_comes_back_bit_for_bit_and_loads(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, double_quantization: bool
) -> None:
    options = QuantizationOptions("nf4", double_quantization=double_quantization, compute_dtype="float16")
    quantize(make_checkpoint(dtype=torch.float16), tmp_path / "nf4", options)
    published = as_published(tmp_path / "nf4", tmp_path / "published")
    convert(published, tmp_path / "back", "safetensors")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("nf4", "back"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if "quant_state" in name:
            assert json.loads(bytes(tensor.tolist())) == json.loads(bytes(after[name].tolist()))
        else:
            assert torch.equal(tensor, after[name]), name
    input_ids = torch.tensor([[5, 6, 7, 8]])
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("nf4", "back")]
    assert torch.equal(*(model(input_ids).logits for model in models))


def as_published(checkpoint: Path, target: Path) -> Path:
    """A transformers-format NF4 checkpoint as bitsandbytes 0.41 kept it."""
    target.mkdir()
    for name in ("config.json", "tokenizer.model"):
        shutil.copyfile(checkpoint / name, target / name)
    tensors = load_file(checkpoint / "model.safetensors")
    content: dict[str, Any] = {}
    for name in linear_layers(read_config(checkpoint)):
        kept = {
            each.removeprefix(f"{name}."): tensors.pop(each) for each in list(tensors) if each.startswith(f"{name}.")
        }
        state = QuantState.from_dict({f"weight.{ending}": part for ending, part in kept.items()}, torch.device("cpu"))
        nested = None
        if state.nested:
            second = state.state2
            nested = [state.offset, [second.absmax, second.code, 256, False, torch.float32, None, None]]
        content[f"{name}.data"] = tensors.pop(name)
        content[f"{name}.quant_state"] = [state.absmax, state.shape, state.dtype, 64, nested, "nf4", state.code]
    content |= {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}
    torch.save(content, target / "pytorch_model.bin")
    return target


@pytest.mark.parametrize("change", [[], [1, 2, 3, 4, 5, 6, 7], "codes", "state"])
def test_damaged_published_int4_is_named(imitation: Path, tmp_path: Path, change: object) -> None:
    content = torch.load(imitation / "pytorch_model.bin", weights_only=True)
    layer = "model.layers.0.mlp.up_proj.weight"
    if change == "codes":
        del content[f"{layer}.data"]
    elif change == "state":
        del content[f"{layer}.quant_state"]
    else:
        content[f"{layer}.quant_state"] = change
    torch.save(content, imitation / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"up_proj\.weight.*download (it|the file) again"):
        convert(imitation, tmp_path / "nf4", "safetensors")


@pytest.mark.parametrize(
    ("method", "double_quantization"), [("int8", True), ("nf4", True), ("nf4", False), ("fp4", True)]
)
@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_what_a_quantized_layer_computes_with_is_written(
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    method: QuantizationMethod,
    double_quantization: bool,
    dtype: Any,
) -> None:
    checkpoint = make_checkpoint(dtype=torch.bfloat16, intermediate_size=224 if method == "int8" else 192)
    options = QuantizationOptions(method, double_quantization=double_quantization, quantize_head=True)
    quantize(checkpoint, tmp_path / "quantized", options)
    convert(tmp_path / "quantized", tmp_path / "dense", "dequantized", dtype=dtype)
    wanted = torch.float32 if dtype == "float32" else torch.bfloat16
    written = load_file(tmp_path / "dense" / "model.safetensors")
    linear = linear_layers(read_config(checkpoint))
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        expected: Tensor = tensor
        if name in linear:
            # In float32, so that bitsandbytes restores in float32.
            expected = quantize_weight(tensor.float(), method, double_quantization=double_quantization).dequantized
        elif name in ("lm_head.weight", "model.embed_tokens.weight"):
            expected = quantize_embedding_or_head(tensor).dequantized
        torch.testing.assert_close(
            written.pop(name), expected.to(wanted), rtol=1e-6 if dtype == "float32" else 8e-3, atol=1e-8
        )
    assert not written
    config = read_config(tmp_path / "dense")
    assert (config.dtype, config.quantize_head) == (wanted, False)


@torch.no_grad()
@pytest.mark.parametrize("method", ["nf4", "int8"])
def test_other_targets_take_quantized_checkpoints(
    make_deep: MakeDeep, tmp_path: Path, llama_cpp: Any, our_greedy: Any, method: QuantizationMethod
) -> None:
    quantize(
        make_deep("baichuan2-7b", 2, intermediate_size=128),
        tmp_path / "quantized",
        QuantizationOptions(method, quantize_head=True),
    )
    convert(tmp_path / "quantized", tmp_path / "dense", "dequantized", dtype="float32")
    convert(tmp_path / "quantized", tmp_path / "llama", "llama")
    convert(tmp_path / "quantized", tmp_path / "gguf", "gguf", gguf_type="f32")
    convert(tmp_path / "quantized", tmp_path / "baichuan1", "baichuan1")
    input_ids = [5, 600, 7, 8]
    _, expected = our_greedy(tmp_path / "dense", input_ids, 1)
    _, of_gguf = llama_cpp(tmp_path / "gguf" / "model.gguf").greedy(input_ids, 1)
    torch.testing.assert_close(of_gguf, expected, rtol=0, atol=5e-3)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
    logits = model(torch.tensor([input_ids])).logits[:, -1].log_softmax(-1)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    with_norm, without = (load_model(tmp_path / name, device="cpu") for name in ("quantized", "baichuan1"))
    assert (with_norm.config.norm_head, without.config.norm_head) == (True, False)
    ids = torch.tensor([input_ids])
    torch.testing.assert_close(without(ids).logits, with_norm(ids).logits, rtol=0, atol=1e-4)


def test_there_must_be_something_to_restore(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="is not quantized: use the checkpoint as it is"):
        convert(make_checkpoint(), tmp_path / "dense", "dequantized")


def test_lost_scales_are_named(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    quantize(make_checkpoint(), tmp_path / "nf4", QuantizationOptions("nf4"))
    tensors = load_file(tmp_path / "nf4" / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight.absmax"]
    torch.save(tensors, tmp_path / "nf4" / "pytorch_model.bin")
    (tmp_path / "nf4" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks model\.layers\.0\.mlp\.up_proj\.weight\.absmax"):
        convert(tmp_path / "nf4", tmp_path / "dense", "dequantized")


def test_no_other_operation_takes_the_published_form(imitation: Path) -> None:
    with pytest.raises(CheckpointError, match='convert it with the target "safetensors"'):
        TensorReader(imitation)
