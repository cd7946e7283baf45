"""A prepacked model computes the same as the plain one, and rejects unsupported operations."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import DynamicCache

from baichuan_core import BaichuanForCausalLM, UnsupportedError, load_model
from baichuan_core.checkpoint import DtypeName
from baichuan_core.model.prepacked import (
    FEATURES_PER_SLICE,
    MAX_ELEMENTWISE_ROWS,
    PrepackedHead,
    PrepackedLinear,
    UpcastLinear,
)

Load = Callable[..., BaichuanForCausalLM]
Golden = dict[str, Tensor]
MakeCheckpoint = Callable[..., Path]

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


def prepacked_layers(model: nn.Module) -> int:
    return sum(isinstance(module, PrepackedLinear) for module in model.modules())


@pytest.mark.parity
@torch.no_grad()
def test_logits_equal_the_recorded_ones(family: Path, golden: Golden, load: Load) -> None:
    model = load(family).prepack()
    ids, mask = golden["full.input_ids"], golden["pad_left.attention_mask"]
    padded = model(golden["pad_left.input_ids"], attention_mask=mask).logits[mask.bool()]
    cache = DynamicCache(config=model.config)
    steps = [model(step, past_key_values=cache).logits[:, -1] for step in (ids[:, :16], *ids[:, 16:].split(1, dim=1))]
    close = partial(torch.testing.assert_close, rtol=0, atol=2e-5)
    close(model(ids).logits, golden["full.logits"])
    close(padded, golden["pad_left.logits"][mask.bool()])
    close(torch.stack(steps, dim=1), golden["cached.logits"])
    assert prepacked_layers(model) == 5 * model.config.num_hidden_layers + 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@torch.no_grad()
def test_half_precision_is_as_close_to_float32_as_a_plain_model(
    make_checkpoint: MakeCheckpoint, dtype: DtypeName
) -> None:
    checkpoint = make_checkpoint(hidden_size=256, num_hidden_layers=4)
    ids = torch.arange(3, 131)[None]
    exact = load_model(checkpoint, dtype="float32", device="cpu")(ids).logits
    plain = load_model(checkpoint, dtype=dtype, device="cpu")(ids).logits.float()
    packed = load_model(checkpoint, dtype=dtype, device="cpu").prepack()(ids).logits.float()
    assert (packed - exact).norm() <= 1.1 * (plain - exact).norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1,), (MAX_ELEMENTWISE_ROWS,), (MAX_ELEMENTWISE_ROWS + 1,), (3, 5), (0,)])
@torch.no_grad()
def test_dtypes_without_kernels_are_rounded_once(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    dense = nn.Linear(96, FEATURES_PER_SLICE + 40, bias=False, dtype=dtype)
    x = torch.randn(*shape, 96).to(dtype)
    exact = x.double() @ dense.weight.double().T
    found = UpcastLinear(dense)(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-3)


@torch.no_grad()
def test_an_adapter_still_applies(make_checkpoint: MakeCheckpoint) -> None:
    model = load_model(make_checkpoint(), device="cpu")
    inject_adapter_in_model(LoraConfig(target_modules=["W_pack", "down_proj"], init_lora_weights=False), model)
    model.eval()
    ids = torch.arange(3, 20)[None]
    expected = model(ids).logits
    torch.testing.assert_close(model.prepack()(ids).logits, expected, rtol=0, atol=2e-5)
    assert prepacked_layers(model) == 5 * model.config.num_hidden_layers + 1


def test_quantized_layers_stay_unchanged(make_checkpoint: MakeCheckpoint) -> None:
    model = load_model(make_checkpoint(), device="cpu", quantization="nf4").prepack()
    assert isinstance(model.lm_head, PrepackedHead)
    assert prepacked_layers(model) == 1


def test_plain_weights_are_released(make_checkpoint: MakeCheckpoint) -> None:
    model = load_model(make_checkpoint(), device="cpu").prepack()
    left = {name.rpartition(".")[0].rpartition(".")[2] for name, _ in model.named_parameters()}
    assert left == {"embed_tokens", "input_layernorm", "post_attention_layernorm", "norm"}
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_saving_and_moving_are_rejected(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model: Any = load_model(make_checkpoint(), dtype="float32", device="cpu").prepack()
    with pytest.raises(UnsupportedError, match="load the model again to save it"):
        model.save_pretrained(tmp_path / "saved")
    with pytest.raises(UnsupportedError, match="load the model again to move it"):
        model.to(torch.float64)
    assert model.to("cpu").float() is model
