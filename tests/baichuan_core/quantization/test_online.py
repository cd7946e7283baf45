"""`model.quantize(4)` and `(8)`: same result as the written checkpoint; the model can be trained, saved and moved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from baichuan_core import (
    BaichuanConfig,
    BaichuanForCausalLM,
    QuantizationOptions,
    UnsupportedError,
    load_model,
    quantize,
)

MakeCheckpoint = Callable[..., Path]
IDS = torch.arange(5, 29)[None]

CASES: list[tuple[int, dict[str, Any], QuantizationOptions]] = [
    (8, {}, QuantizationOptions("int8")),
    (4, {}, QuantizationOptions("nf4")),
    (
        4,
        {"quant_type": "fp4", "double_quantization": False, "compute_dtype": "float32"},
        QuantizationOptions("fp4", double_quantization=False, compute_dtype="float32"),
    ),
    (8, {"quantize_head": True}, QuantizationOptions("int8", quantize_head=True)),
    (4, {"quantize_head": True}, QuantizationOptions("nf4", quantize_head=True)),
]


@torch.no_grad()
@pytest.mark.parametrize(("bits", "settings", "options"), CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [{}, {"max_position_embeddings": None, "model_max_length": 128}])
def test_the_result_equals_the_written_checkpoint(
    make_checkpoint: MakeCheckpoint,
    tmp_path: Path,
    bits: int,
    settings: dict[str, Any],
    options: QuantizationOptions,
    dtype: torch.dtype,
    lengths: dict[str, Any],
) -> None:
    checkpoint = make_checkpoint(dtype=dtype, **lengths)
    quantize(checkpoint, tmp_path / "written", options)
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype="auto")
    assert model.quantize(bits, **settings) is model
    model.save_pretrained(tmp_path / "saved")
    written = load_file(tmp_path / "written" / "model.safetensors")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert written.keys() == saved.keys()
    assert all(torch.equal(written[name], saved[name]) for name in written)
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert (
        again.config.to_diff_dict() == AutoModelForCausalLM.from_pretrained(tmp_path / "written").config.to_diff_dict()
    )
    assert torch.equal(again(IDS).logits, model.to("cpu")(IDS).logits)
    generated = model.generate(IDS, max_new_tokens=3, do_sample=False, eos_token_id=767, pad_token_id=0)
    assert generated.shape == (1, IDS.shape[1] + 3)


@pytest.mark.parametrize(("bits", "settings"), [(8, {}), (4, {}), (4, {"quantize_head": True})])
def test_lora_trains_on_the_result(make_checkpoint: MakeCheckpoint, bits: int, settings: dict[str, Any]) -> None:
    base: Any = AutoModelForCausalLM.from_pretrained(make_checkpoint())
    base.quantize(bits, compute_dtype="float32", **settings)
    base.enable_input_require_grads()
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["W_pack"])).train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=5e-2)
    losses = []
    for _ in range(6):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.1


@torch.no_grad()
@pytest.mark.parametrize("double_quantization", [False, True])
def test_saved_after_a_forward_pass_it_still_computes_the_same(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, double_quantization: bool
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(make_checkpoint())
    model.quantize(4, double_quantization=double_quantization)
    expected = model(IDS).logits
    model.save_pretrained(tmp_path / "saved")
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    for other in (model, again, model.to("cpu")):
        torch.testing.assert_close(other(IDS).logits, expected, rtol=0, atol=0.03)  # scales are rounded


@torch.no_grad()
@pytest.mark.parametrize("double_quantization", [False, True])
@pytest.mark.parametrize("load", [None, load_model, AutoModelForCausalLM.from_pretrained])
def test_saved_after_a_forward_pass_it_has_the_same_bytes(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, double_quantization: bool, load: Callable[[Path], Any] | None
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(make_checkpoint())
    model.quantize(4, double_quantization=double_quantization)
    model.save_pretrained(tmp_path / "before")
    if load is not None:
        model = load(tmp_path / "before")
    before = model(IDS).logits
    for name in ("after", "again"):  # bitsandbytes packs it again in the next forward pass
        model.save_pretrained(tmp_path / name)
        files = [tmp_path / folder / "model.safetensors" for folder in ("before", name)]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert torch.equal(model(IDS).logits, before)


@torch.no_grad()
@pytest.mark.parametrize("used", [False, True])
def test_eight_bit_layers_compute_with_the_codes_that_were_moved(make_checkpoint: MakeCheckpoint, used: bool) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(make_checkpoint())
    model.quantize(8)
    if used:
        model(IDS)
    # Simulates moving tensors to another device, with an effect that is visible on a CPU.
    model._apply(lambda tensor: torch.zeros_like(tensor) if tensor.dtype == torch.int8 else tensor)
    layer = model.model.layers[0].self_attn.W_pack
    assert not layer(torch.ones(1, layer.in_features)).any()


@pytest.mark.parametrize("bits", [8, 4])
def test_cuda_is_accepted(make_checkpoint: MakeCheckpoint, bits: int) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(make_checkpoint())
    model.quantize(bits)
    if torch.cuda.is_available():
        assert model.cuda()(IDS.cuda()).logits.isfinite().all()
    else:
        with pytest.raises((AssertionError, RuntimeError), match=r"CUDA|NVIDIA"):  # torch's own message
            model.cuda()


def test_threshold_reaches_the_layers(make_checkpoint: MakeCheckpoint) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(make_checkpoint())
    model.quantize(8, threshold=3.0)
    assert model.model.layers[0].mlp.up_proj.state.threshold == 3.0
    assert model.config.quantization_config.llm_int8_threshold == 3.0


def test_unsupported_models_are_rejected(make_checkpoint: MakeCheckpoint) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(make_checkpoint())
    with pytest.raises(UnsupportedError, match="bits is 16: use 8 or 4"):
        model.quantize(16)
    with pytest.raises(UnsupportedError, match="method 'nf3' is unknown: use"):
        model.quantize(4, quant_type="nf3")
    with pytest.raises(UnsupportedError, match="compute_dtype 'int8' is unknown: use"):
        model.quantize(4, compute_dtype="int8")
    model.quantize(8)
    with pytest.raises(UnsupportedError, match="already quantized"):
        model.quantize(4)
    odd: Any = AutoModelForCausalLM.from_pretrained(make_checkpoint("odd", intermediate_size=176))
    with pytest.raises(UnsupportedError, match=r"layers\.0\.mlp\.gate_proj has 176 output features, .* multiple of 32"):
        odd.quantize(4)
    adapted: Any = get_peft_model(odd, LoraConfig(r=2, target_modules=["W_pack"]))
    with pytest.raises(UnsupportedError, match="has an adapter: merge it first"):
        adapted.get_base_model().quantize(8)
    with torch.device("meta"):
        empty = BaichuanForCausalLM(BaichuanConfig(num_hidden_layers=1, hidden_size=64, intermediate_size=192))
    with pytest.raises(UnsupportedError, match=r"is not in memory .* load_model"):
        empty.quantize(8)
