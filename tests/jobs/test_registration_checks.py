"""Registering a directory runs the checks of the jobs, without torch."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoint_files.layout import expected_tensors
from checkpoint_files.model_fields import ModelFields
from jobs.errors import InvalidRequestError, PathNotAllowedError
from jobs.service import models
from jobs.settings import Settings
from tests.model_files import CONFIG, write_model_files, write_zeros

LAYER = "base_model.model.model.layers.0.self_attn.W_pack"
ADAPTER: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["W_pack"]}
MATRICES: dict[str, tuple[int, ...]] = {f"{LAYER}.lora_A.weight": (2, 8), f"{LAYER}.lora_B.weight": (24, 2)}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model_files(tmp_path / "models" / "base")
    return tmp_path / "models" / "base"


def write_adapter(folder: Path, shapes: dict[str, tuple[int, ...]], **changes: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER | changes))
    write_zeros(folder / "adapter_model.safetensors", shapes)
    return folder


def refusal(folder: Path, settings: Settings) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        models.check_model_directory(str(folder), settings)
    return str(caught.value)


def test_whole_directories_are_accepted(folder: Path, settings: Settings) -> None:
    assert models.check_model_directory(str(folder), settings).found.kind == "checkpoint"
    adapter = write_adapter(folder.parent / "adapter", MATRICES)
    assert models.check_model_directory(str(adapter), settings).found.kind == "adapter"


def rewrite(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": None, "architectures": ["BaichuanForCausalLM"]},
        {"model_type": None, "auto_map": {"AutoConfig": "configuration_baichuan.BaiChuanConfig"}},
        {"norm_head": 0, "tie_word_embeddings": 0},
        {"torch_dtype": "torch.bfloat16", "eos_token_id": [2, 99]},
        {"quantization_config": {"quant_method": "QuantizationMethod.BITS_AND_BYTES", "load_in_4bit": False}},
        {"quantization_config": {"load_in_4bit": 0, "load_in_8bit": None}},
    ],
)
def test_a_clear_configuration_is_accepted(folder: Path, settings: Settings, changes: dict[str, Any]) -> None:
    rewrite(folder, **changes)
    assert models.check_model_directory(str(folder), settings).found.details["norm_head"] is False


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "llama"}, "config.json describes a 'llama' model"),
        ({"model_type": "Baichuan"}, "config.json has the model_type 'Baichuan': write \"baichuan\""),
        ({"vocab_size": "16"}, "vocab_size is '16': set it to a positive integer"),
        ({"eos_token_id": 16}, "config.json has the eos_token_id 16, but the model has only the tokens 0 to 15"),
        ({"quantization_config": True}, "quantization_config is True: use an object as bitsandbytes writes it"),
        (
            {"rope_theta": 10000, "rope_parameters": {"rope_type": "default", "rope_theta": 5e4}},
            "rope_theta is 10000, but rope_parameters.rope_theta is 50000.0: keep one of them",
        ),
        ({"model_type": None, "architectures": ["LlamaForCausalLM"]}, "config.json describes a LlamaForCausalLM model"),
        ({"norm_head": 2}, "norm_head is 2: set it to true or false"),
        (
            {"quantization_config": {"load_in_4bit": "false", "load_in_8bit": "false"}},
            "quantization_config.load_in_8bit is 'false': set it to true or false",
        ),
    ],
)
def test_an_unclear_configuration_is_refused(
    folder: Path, settings: Settings, changes: dict[str, Any], says: str
) -> None:
    rewrite(folder, **changes)
    assert says in refusal(folder, settings)


def test_a_template_elsewhere_is_not_read(folder: Path, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{{")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "a.jinja").symlink_to(tmp_path / "secret")
    with pytest.raises(PathNotAllowedError):
        models.check_model_directory(str(folder), settings)


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def point(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def deepen(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))


def forget_head(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["norm_head"]
    (folder / "config.json").write_text(json.dumps(config))


def quantize_otherwise(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))


def end_nowhere(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": 16}')


def forget_index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")


def leave_training_state(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "global_step10").mkdir()


def wrap(prefix: str) -> Callable[[Path], None]:
    def rename_tensors(folder: Path) -> None:
        shapes = expected_tensors(ModelFields.from_config(CONFIG))
        write_zeros(folder / "model.safetensors", {prefix + name: shape for name, shape in shapes.items()})

    return rename_tensors


def keep_matrices(folder: Path) -> None:
    (folder / "config.json").unlink()
    write_zeros(folder / "adapter_model.safetensors", MATRICES)


def keep_checkpoints(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "checkpoint-5").mkdir()


def add_tokens(folder: Path) -> None:
    (folder / "added_tokens.json").write_text('{"<new>": 16}')


def break_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for message in messages %}")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut, "model.safetensors is damaged"),
        (point, "model.safetensors is a git-LFS pointer"),
        (deepen, "lacks 7 tensors, the first of them model.layers.1.input_layernorm.weight"),
        (forget_head, "norm_head is not set, and vocab_size 16 is not that of a published model"),
        (quantize_otherwise, "quantized by awq"),
        (end_nowhere, "generation_config.json has the eos_token_id 16"),
        (forget_index, "has shards of weights but no index: copy or download model.safetensors.index.json"),
        (leave_training_state, "only the training state of DeepSpeed: run its zero_to_fp32.py"),
        (wrap("module."), 'begin with "module.", which is added by DeepSpeed'),
        (wrap("_orig_mod."), 'begin with "_orig_mod.", which is added by torch.compile'),
        (wrap("base_model.model."), 'begin with "base_model.model.", which is added by peft'),
        (keep_matrices, "has the matrices of an adapter; copy its adapter_config.json too"),
        (keep_checkpoints, "has the checkpoints of a training run; use one of them, for example"),
        (add_tokens, "has the added token '<new>' with id 16, but vocab_size in config.json is 16"),
        (break_template, "chat_template.jinja is not a valid Jinja template (line 1"),
    ],
)
def test_a_checkpoint_is_refused_as_a_job_would(
    folder: Path, settings: Settings, damage: Callable[[Path], None], says: str
) -> None:
    damage(folder)
    assert says in refusal(folder, settings)


@pytest.mark.parametrize(
    ("shapes", "changes", "says"),
    [
        ({}, {}, "contains no tensors"),
        ({f"{LAYER}.lora_A.weight": (2, 8)}, {}, "lacks its lora_B"),
        (MATRICES, {"target_modules": ["W_pack", "o_proj"]}, "lacks 1 of the 2 layers"),
        (MATRICES, {"peft_type": "VERA"}, "an adapter of type VERA"),
        (MATRICES, {"init_lora_weights": "loftq"}, 'init_lora_weights "loftq"'),
        (MATRICES, {"r": 4}, "sets its rank to 4"),
        (MATRICES, {"r": "2"}, "r is '2'"),
        (MATRICES, {"lora_alpha": 0}, "lora_alpha is 0"),
    ],
)
def test_an_adapter_is_refused_as_a_job_would(
    folder: Path, settings: Settings, shapes: dict[str, tuple[int, ...]], changes: dict[str, Any], says: str
) -> None:
    adapter = write_adapter(folder.parent / "adapter", shapes, **changes)
    assert says in refusal(adapter, settings)


def test_the_checks_need_no_torch(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from checkpoint_files import check_directory;"
        f"check_directory(Path({str(folder)!r}));"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
