"""Directories in the published layout, loaded with transformers' Auto classes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from baichuan_core import (
    BaichuanForCausalLM,
    BaichuanTokenizer,
    GenerationOptions,
    GenerationRequest,
    QuantizationOptions,
    convert,
    generate,
    quantize,
)
from baichuan_core.model.chunked_loss import LinearHead

REMOTE_CODE = "raise SystemExit('remote code ran')"
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
# The recorded models are float32, published weights bfloat16.
ROUNDING = 0.15


def tokenizer_settings(family: str, class_name: str) -> dict[str, Any]:
    first_7b = family == "baichuan1-7b"
    tokens = {
        name: {"__type": "AddedToken", "content": content, "single_word": not first_7b}
        for name, content in SPECIAL_TOKENS.items()
        if not (first_7b and name == "pad_token")
    }
    return {
        "add_bos_token": False,
        "add_eos_token": False,
        "auto_map": {"AutoTokenizer": [f"tokenization_baichuan.{class_name}", None]},
        "model_max_length": 10**30 if first_7b else 4096,
        "sp_model_kwargs": {},
        "tokenizer_class": class_name,
        **tokens,
    }


@pytest.fixture
def published(family: Path, golden_root: Path, tmp_path: Path) -> Path:
    """One `.bin` file in bfloat16, remote code beside it, names and keys as published."""
    directory = tmp_path / "published"
    directory.mkdir()
    prefix = "BaiChuan" if family.name == "baichuan1-7b" else "Baichuan"
    config = json.loads((family / "config.json").read_text()) | {
        "_from_model_config": True,
        "auto_map": {
            "AutoConfig": f"configuration_baichuan.{prefix}Config",
            "AutoModelForCausalLM": f"modeling_baichuan.{prefix}ForCausalLM",
        },
        "torch_dtype": "bfloat16",
        "transformers_version": "4.29.2",
        "vocab_size": 768,
    }
    if family.name.startswith("baichuan2"):
        config["z_loss_weight"] = 0
    if family.name == "baichuan1-13b":
        config["norm_head"] = False  # not inferred, because no published vocabulary has 768 tokens
    weights = {name: tensor.bfloat16() for name, tensor in load_file(family / "model.safetensors").items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):  # the tokenizer has more pieces than the golden models
        weights[name] = torch.nn.functional.pad(weights[name], (0, 0, 0, 256))
    if family.name == "baichuan1-7b":
        weights |= {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(8) for layer in range(2)}
    torch.save(weights, directory / "pytorch_model.bin")
    (directory / "config.json").write_text(json.dumps(config))
    settings = tokenizer_settings(family.name, f"{prefix}Tokenizer")
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    shutil.copyfile(golden_root / "chat" / "tokenizer.model", directory / "tokenizer.model")
    for name in ("configuration", "modeling", "tokenization"):
        (directory / f"{name}_baichuan.py").write_text(REMOTE_CODE)
    return directory


def load(directory: Path, family: Path, **settings: Any) -> BaichuanForCausalLM:
    model = AutoModelForCausalLM.from_pretrained(directory, norm_head=family.name.startswith("baichuan2"), **settings)
    assert isinstance(model, BaichuanForCausalLM)
    return model


@torch.no_grad()
def test_auto_classes_load_it_without_remote_code(published: Path, family: Path, golden: dict[str, Tensor]) -> None:
    assert AutoConfig.from_pretrained(published).norm_head is family.name.startswith("baichuan2")
    model = load(published, family)
    assert model.dtype == torch.bfloat16
    logits = model(golden["full.input_ids"]).logits[..., :512]
    assert (logits - golden["full.logits"]).abs().max() < ROUNDING
    tokenizer = AutoTokenizer.from_pretrained(published)
    assert type(tokenizer) is BaichuanTokenizer
    assert (tokenizer.pad_token_id, tokenizer.encode("hello")) == (0, [480, 515, 598])


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_saved_and_loaded_again_it_is_the_same(
    published: Path, family: Path, golden: dict[str, Tensor], tmp_path: Path, dtype: torch.dtype, name: str
) -> None:
    model = load(published, family, **{name: dtype}, device_map="auto")
    assert model.dtype == dtype
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert again.dtype == dtype
    ids = golden["full.input_ids"]
    assert torch.equal(again(ids).logits, model(ids).logits)


@torch.no_grad()
@pytest.mark.parametrize("device_map", [None, "auto"])
def test_quantized_while_loading_it_can_be_saved_and_loaded(
    published: Path, family: Path, golden: dict[str, Tensor], tmp_path: Path, device_map: str | None
) -> None:
    quantization = BitsAndBytesConfig(load_in_8bit=True)
    model = load(published, family, quantization_config=quantization, device_map=device_map)
    assert type(model.lm_head) is LinearHead
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    ids = golden["full.input_ids"]
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_the_operations_take_it_through_links_and_leave_it_alone(published: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "cache" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    for file in published.iterdir():
        (snapshot / file.name).symlink_to(file)
    before = {file.name: file.read_bytes() for file in published.iterdir()}
    convert(str(snapshot), str(tmp_path / "a folder, 中文"), "safetensors")
    quantize(str(snapshot), str(tmp_path / "int8"), QuantizationOptions("int8"))
    options = GenerationOptions(max_new_tokens=2)
    generate(str(snapshot), [GenerationRequest("hello")], str(tmp_path / "completions.jsonl"), options)
    assert {file.name: file.read_bytes() for file in published.iterdir()} == before
    assert not any(file.is_symlink() or file.suffix == ".py" for file in (tmp_path / "a folder, 中文").iterdir())
