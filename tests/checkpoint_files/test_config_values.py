"""Values in `config.json` that no model can have are rejected by file and field."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from checkpoint_files import FileError, check_directory, read_config
from checkpoint_files.config_values import ACTIVATIONS, REQUIRED_BY_TYPE
from tests.model_files import write_model_files

EIGHT_BITS = {"quant_method": "bitsandbytes", "load_in_8bit": True}
FOUR_BITS = {"quant_method": "bitsandbytes", "load_in_4bit": True}
LLAMA3 = {"rope_type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 1}


def change_config(folder: Path, changes: dict[str, Any]) -> Path:
    write_model_files(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rope_scaling": {"type": "linear"}}, 'rope_scaling has no factor, which rope_type "linear" requires'),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling has no factor"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope_parameters has no factor"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 2}}, "rope_parameters has no low_freq_factor"),
        ({"rope_parameters": LLAMA3}, "high_freq_factor is not above low_freq_factor"),
        ({"rope_scaling": {"type": "longrope"}}, "rope_scaling.long_factor is None: use a list of 2 numbers"),
        (
            {"rope_scaling": {"type": "longrope", "long_factor": [1.0] * 2, "short_factor": [1.0] * 3}},
            "rope_scaling.short_factor has 3 numbers: use 2",
        ),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "rope_scaling.factor is '2'"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling.factor is 0: set it to a number above 0"),
        ({"rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": "32"}}, "rope_scaling.beta_fast is '32'"),
        ({"rope_scaling": {"type": "foo", "factor": 2}}, "rope_scaling.rope_type is 'foo': use one of default,"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear': use an object"),
        ({"rope_theta": "10000"}, "rope_theta is '10000'"),
        ({"rope_theta": 0}, "rope_theta is 0: set it to a number from 1 to 1e+12"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": None}}, "rope_theta is null"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps is '1e-6': set it to a number above 0"),
        ({"rms_norm_eps": None}, "rms_norm_eps is null"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        ({"rms_norm_eps": 10**18}, "rms_norm_eps is 1000000000000000000: set it to a number above 0, at most 0.1"),
        ({"initializer_range": -1}, "initializer_range is -1: set it to a number from 0 to 1"),
        ({"rope_theta": 1e300}, "rope_theta is 1e+300: set it to a number from 1 to 1e+12"),
        (
            {"rope_scaling": {"type": "linear", "factor": 1e300}},
            "rope_scaling.factor is 1e+300: set it to a number above 0",
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2, "mscale": -1}},
            "rope_scaling.mscale is -1: set it to a number",
        ),
        ({"torch_dtype": "int8"}, "torch_dtype is 'int8': set it to float16"),
        ({"dtype": 16}, "dtype is 16"),
        ({"num_attention_heads": "2", "head_dim": 4}, "num_attention_heads is '2'"),
        ({"head_dim": "4"}, "head_dim is '4': remove it"),
        ({"quantization_config": FOUR_BITS | {"bnb_4bit_compute_dtype": "int"}}, "bnb_4bit_compute_dtype is 'int'"),
        ({"quantization_config": EIGHT_BITS | {"llm_int8_skip_modules": "lm_head"}}, "llm_int8_skip_modules is 'lm"),
        ({"quantization_config": EIGHT_BITS | {"llm_int8_threshold": "6"}}, "llm_int8_threshold is '6'"),
        ({"pad_token_id": "0"}, "pad_token_id is '0': set it to a token id"),
        ({"eos_token_id": [2, "3"]}, "eos_token_id is [2, '3']"),
        ({"pad_token_id": -2}, "pad_token_id is -2: set it to a token id"),
        ({"pad_token_id": 2**31}, "pad_token_id is 2147483648: set it to a token id"),
        ({"bos_token_id": -1}, "bos_token_id is -1: set it to a token id"),
        ({"eos_token_id": [2, -5]}, "eos_token_id is [2, -5]: set it to a token id"),
        ({"z_loss_weight": "a"}, "z_loss_weight is 'a': set it to a number"),
        ({"z_loss_weight": -1}, "z_loss_weight is -1: set it to a number from 0 to 1"),
        ({"hidden_act": "gel"}, "hidden_act is 'gel'"),
        ({"norm_head": "true"}, "norm_head is 'true': set it to true or false"),
    ],
)
def test_a_value_that_no_model_has_is_rejected_with_its_field(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(FileError) as caught:
        check_directory(change_config(tmp_path, changes))
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'} does not describe a valid model: ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": {}},
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 500000},
        {"rope_scaling": {"type": "longrope", "long_factor": [1.0] * 2, "short_factor": [1.0] * 2, "factor": 2.0}},
        {"rope_parameters": LLAMA3 | {"high_freq_factor": 8, "original_max_position_embeddings": 256}},
        {"position_embedding": "alibi", "rope_scaling": {"type": "linear"}},
        {"torch_dtype": "torch.float16", "pad_token_id": None, "eos_token_id": [2, 5.0], "z_loss_weight": 0},
        {"num_attention_heads": 2.0, "head_dim": 4.0},
    ],
)
def test_values_that_models_have_are_accepted(tmp_path: Path, changes: dict[str, Any]) -> None:
    check_directory(change_config(tmp_path, changes))


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("user_token_id", -1, "user_token_id is -1: set it to a token id"),
        ("assistant_token_id", 99, "has the assistant_token_id 99, but the model has only the tokens 0 to 15"),
        ("max_new_tokens", 10**18, "max_new_tokens is 1000000000000000000: set it to an integer from 1"),
        ("top_k", -1, "top_k is -1: set it to an integer from 0"),
        ("temperature", 1e300, "temperature is 1e+300: set it to a number from 0 to 100"),
        ("repetition_penalty", 1e300, "repetition_penalty is 1e+300: set it to a number above 0, at most 100"),
    ],
)
def test_settings_of_generation_that_cannot_work_are_rejected(
    tmp_path: Path, field: str, value: float, says: str
) -> None:
    write_model_files(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({field: value}))
    with pytest.raises(FileError) as caught:
        check_directory(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'generation_config.json'} ")
    assert says in str(caught.value)


def test_the_attention_of_another_machine_is_dropped(tmp_path: Path) -> None:
    assert "attn_implementation" not in read_config(change_config(tmp_path, {"attn_implementation": "x"}))


def test_an_integer_threshold_is_converted_to_the_float_that_bitsandbytes_requires(tmp_path: Path) -> None:
    config = read_config(change_config(tmp_path, {"quantization_config": EIGHT_BITS | {"llm_int8_threshold": 6}}))
    assert type(config["quantization_config"]["llm_int8_threshold"]) is float


def test_names_are_those_of_transformers() -> None:
    assert set(ACTIVATIONS) == set(ACT2FN)
    assert set(REQUIRED_BY_TYPE) == {"default", *ROPE_INIT_FUNCTIONS}
