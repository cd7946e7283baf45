"""Adapters of peft and other tools: they give the same results as in peft, or are rejected by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from baichuan_core import (
    BaichuanError,
    CheckpointError,
    GenerationOptions,
    GenerationRequest,
    QuantizationOptions,
    UnsupportedError,
    convert,
    generate,
    load_model,
    quantize,
)
from checkpoint_files import FileError, check_directory

MakeCheckpoint = Callable[..., Path]
IDS = torch.tensor([[5, 6, 7, 8, 9]])
LAYERS = ["W_pack", "o_proj", "gate_proj", "up_proj", "down_proj"]
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def base(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint()


def make_adapter(base: Path, directory: Path, **changes: Any) -> Path:
    """Write an adapter without training it, but change every matrix from its initial values."""
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["W_pack", "down_proj"]} | changes
    torch.manual_seed(3)
    adapted: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**settings))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data += torch.randn_like(parameter) * 0.1
    adapted.save_pretrained(directory)
    return directory


def rewrite_config(adapter: Path, **changes: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@torch.no_grad()
def peft_logits(base: Path, adapter: Path) -> Tensor:
    logits: Tensor = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))(IDS).logits
    return logits


@torch.no_grad()
def our_logits(base: Path, adapter: Path) -> Tensor:
    logits: Tensor = load_model(base, device="cpu", adapter=adapter)(IDS).logits
    return logits


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True, "target_modules": LAYERS},
        {"init_lora_weights": "pissa", "target_modules": LAYERS},
        {"init_lora_weights": "olora", "use_rslora": True},
        {"init_lora_weights": "pissa", "use_dora": True},
        {"init_lora_weights": "eva"},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": "all-linear"},
        {"target_modules": ["W_pack", "o_proj"], "layers_to_transform": [1]},
    ],
    ids=["dora", "pissa", "olora", "both", "eva", "saved head", "all", "one block"],
)
@pytest.mark.filterwarnings("ignore:.*eva")
def test_an_unmerged_adapter_computes_the_same_as_in_peft(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", **settings)
    check_directory(adapter)
    ours = our_logits(base, adapter)
    assert_same(ours, peft_logits(base, adapter))
    assert (ours - load_model(base, device="cpu")(IDS).logits).abs().max() > 0.1


def test_dora_works_in_a_generation_on_a_cpu(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", use_dora=True)
    convert(base, tmp_path / "merged", "merged", adapter=adapter)
    options = GenerationOptions(max_new_tokens=8, temperature=0)
    texts = []
    for checkpoint, used in ((base, adapter), (tmp_path / "merged", None)):
        generate(checkpoint, [GenerationRequest("hello")], tmp_path / "out.jsonl", options, adapter=used)
        texts.append(json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["completion"])
        (tmp_path / "out.jsonl").unlink()
    assert texts[0] == texts[1]


def test_on_a_quantized_base_it_computes_the_same_as_in_peft(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    quantize(base, tmp_path / "nf4", QuantizationOptions("nf4"))
    assert_same(our_logits(tmp_path / "nf4", adapter), peft_logits(tmp_path / "nf4", adapter))


@pytest.mark.parametrize("method", ["nf4", "fp4", "int8"])
@torch.no_grad()
def test_dora_on_a_quantized_base_computes_the_same_as_on_the_dequantized_one(
    base: Path, tmp_path: Path, method: Literal["nf4", "fp4", "int8"]
) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", use_dora=True, target_modules=LAYERS)
    quantize(base, tmp_path / "quantized", QuantizationOptions(method, compute_dtype="float32"))
    convert(tmp_path / "quantized", tmp_path / "values", "dequantized")
    model = load_model(tmp_path / "quantized", device="cpu", adapter=adapter)
    wanted = our_logits(tmp_path / "values", adapter)
    for _ in range(2):  # bitsandbytes packs 4-bit weights for a CPU in the first forward pass
        torch.testing.assert_close(model(IDS).logits, wanted, rtol=0, atol=0.02)


@pytest.mark.parametrize("initialization", ["pissa_niter_4", "corda", "loftq", "lora_ga", "a_new_one"])
def test_a_base_that_cannot_be_restored_is_rejected_for_use_and_merging(
    base: Path, tmp_path: Path, initialization: str
) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    rewrite_config(adapter, init_lora_weights=initialization)
    message = rf'adapter_config\.json has init_lora_weights "{initialization}"'
    with pytest.raises(UnsupportedError, match=message):
        load_model(base, device="cpu", adapter=adapter)
    with pytest.raises(UnsupportedError, match=message):
        convert(base, tmp_path / "merged", "merged", adapter=adapter)
    with pytest.raises(FileError, match=message):
        check_directory(adapter)


def test_an_adapter_that_changed_its_base_is_rejected_on_a_quantized_one(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", init_lora_weights="pissa")
    quantize(base, tmp_path / "nf4", QuantizationOptions("nf4"))
    with pytest.raises(UnsupportedError, match=r'initialized with "pissa".* is quantized: use the unquantized base'):
        load_model(tmp_path / "nf4", device="cpu", adapter=adapter)
    with pytest.raises(UnsupportedError, match=r'initialized with "pissa".* is quantized: use the unquantized base'):
        convert(tmp_path / "nf4", tmp_path / "merged", "merged", adapter=adapter)
    with pytest.raises(UnsupportedError, match=r'initialized with "pissa".* load the base without quantization'):
        load_model(base, device="cpu", adapter=adapter, quantization="int8")


@pytest.mark.parametrize("prefix", ["", "module.", "base_model.model.", "_orig_mod."])
@pytest.mark.parametrize("settings", [{}, {"use_dora": True}])
def test_names_of_a_model_state_dict_are_read(
    base: Path, tmp_path: Path, settings: dict[str, Any], prefix: str
) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", **settings)
    named = {}
    for name, tensor in load_file(adapter / WEIGHTS).items():
        inner = name.replace("lora_magnitude_vector", "lora_magnitude_vector.default.weight")
        for side in ("lora_A", "lora_B"):
            inner = inner.replace(f".{side}.weight", f".{side}.default.weight")
        named[prefix + inner] = tensor
    wanted = peft_logits(base, adapter)
    save_file(named, adapter / WEIGHTS)
    check_directory(adapter)
    assert_same(our_logits(base, adapter), wanted)
    convert(base, tmp_path / "merged", "merged", adapter=adapter)
    assert_same(load_model(tmp_path / "merged", device="cpu")(IDS).logits, wanted)


def test_a_bin_file_alone_is_used_and_merged(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    wanted = peft_logits(base, adapter)
    torch.save(load_file(adapter / WEIGHTS), adapter / "adapter_model.bin")
    (adapter / WEIGHTS).unlink()
    old = {"enable_lora": None, "merge_weights": False, "bias": "none", "fan_in_fan_out": False}
    content = {"r": 4, "lora_alpha": 8, "target_modules": ["W_pack", "down_proj"], "peft_type": "LORA"}
    (adapter / "adapter_config.json").write_text(json.dumps(content | old))
    check_directory(adapter)
    assert_same(our_logits(base, adapter), wanted)
    convert(base, tmp_path / "merged", "merged", adapter=adapter)
    assert_same(load_model(tmp_path / "merged", device="cpu")(IDS).logits, wanted)


class Payload:
    """An object whose pickle runs code when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("ran",))


def test_a_bin_file_runs_no_code(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    torch.save({"a": Payload()}, adapter / "adapter_model.bin")
    (adapter / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin is damaged or contains objects other") as caught:
        load_model(base, device="cpu", adapter=adapter)
    assert "weights_only" not in str(caught.value)
    with pytest.raises(FileError, match=r"objects other than tensors"):
        check_directory(adapter)
    assert "ran" not in capsys.readouterr().out


def without_last_block(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if ".1.mlp" not in name}


def under_both_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {name.replace(".weight", ".default.weight"): one.clone() for name, one in tensors.items()}


DAMAGES: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "no tensors": (lambda _: {}, "contains no tensors"),
    "size 0": (lambda tensors: {name: torch.empty(0) for name in tensors}, r"is empty \(shape \[0\]\).* ZeRO-3"),
    "some layers": (without_last_block, r"lacks 1 of the 4 layers .* model\.layers\.1\.mlp\.down_proj"),
    "other rank": (lambda tensors: {name: two_ranks(name, one) for name, one in tensors.items()}, "sets its rank to 4"),
    "both names": (
        lambda tensors: (
            tensors | {name.replace(".weight", ".default.weight"): one + 0 for name, one in tensors.items()}
        ),
        "contains both",
    ),
    "integers": (
        lambda tensors: {name: one.to(torch.int8) for name, one in tensors.items()},
        r"lora_[AB]\.weight in .*adapter_model\.safetensors has the dtype I8",
    ),
    "surplus": (
        lambda tensors: tensors | {name.replace("W_pack", "o_proj"): o_proj(one) for name, one in tensors.items()},
        r"self_attn\.o_proj, which no entry of target_modules .* matches",
    ),
}


def two_ranks(name: str, tensor: Tensor) -> Tensor:
    return tensor[:2].clone() if "lora_A" in name else tensor[:, :2].clone()


def o_proj(tensor: Tensor) -> Tensor:
    return tensor[:64].clone()


@pytest.mark.parametrize("damage", DAMAGES)
def test_files_that_do_not_fill_the_layers_are_rejected(base: Path, tmp_path: Path, damage: str) -> None:
    change, message = DAMAGES[damage]
    adapter = make_adapter(base, tmp_path / "adapter")
    save_file(change(load_file(adapter / WEIGHTS)), adapter / WEIGHTS)
    with pytest.raises(BaichuanError, match=message):
        load_model(base, device="cpu", adapter=adapter)
    with pytest.raises(BaichuanError, match=message):
        convert(base, tmp_path / "merged", "merged", adapter=adapter)
    with pytest.raises(FileError, match=message):
        check_directory(adapter)


def test_a_missing_last_block_is_found_with_the_base(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    first = {name: one for name, one in load_file(adapter / WEIGHTS).items() if ".layers.0." in name}
    save_file(first, adapter / WEIGHTS)
    with pytest.raises(CheckpointError, match="lacks 2 of the 4 layers"):
        load_model(base, device="cpu", adapter=adapter)


@pytest.mark.parametrize("method", ["ADALORA", "VERA", "PROMPT_TUNING", "IA3", "PREFIX_TUNING"])
def test_other_methods_are_rejected_by_name(base: Path, tmp_path: Path, method: str) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    rewrite_config(adapter, peft_type=method)
    with pytest.raises(UnsupportedError, match=f"an adapter of type {method}, but only LoRA"):
        load_model(base, device="cpu", adapter=adapter)
    with pytest.raises(FileError, match=f"describes an adapter of type {method}"):
        check_directory(adapter)


@pytest.mark.parametrize(
    "setting",
    [
        {"lora_bias": True},
        {"alora_invocation_tokens": [1, 2]},
        {"layer_replication": [[0, 2]]},
        {"kasa_config": {"beta": 1}},
        {"some_later_setting": 3},
    ],
)
def test_other_features_of_peft_are_rejected_by_name(base: Path, tmp_path: Path, setting: dict[str, Any]) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    rewrite_config(adapter, **setting)
    with pytest.raises(UnsupportedError, match=rf"adapter_config\.json sets {next(iter(setting))}"):
        load_model(base, device="cpu", adapter=adapter)


def test_a_git_lfs_pointer_is_named(base: Path, tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    adapter = make_adapter(base, tmp_path / "adapter")
    (adapter / WEIGHTS).unlink()
    for name in ("adapter_model.bin", WEIGHTS):
        (adapter / name).write_bytes(pointer)
        with pytest.raises(CheckpointError, match=rf"{name} is a git-LFS pointer.*git lfs pull"):
            load_model(base, device="cpu", adapter=adapter)
        with pytest.raises(FileError, match="git-LFS pointer"):
            check_directory(adapter)
    checkpoint = shutil.copytree(base, tmp_path / "checkpoint")
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(pointer)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is a git-LFS pointer"):
        load_model(checkpoint, device="cpu")


def test_a_byte_order_mark_and_whole_floats_are_read(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    wanted = peft_logits(base, adapter)
    rewrite_config(adapter, r=4.0)
    file = adapter / "adapter_config.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert_same(our_logits(base, adapter), wanted)
