"""Rejects values in `config.json` that would make the model impossible to run."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .errors import FileError
from .family import infer_position_embedding
from .field_rules import (
    POSITIVE,
    SWITCH,
    TOKENS,
    Rule,
    check_fields,
    is_number,
    is_positive,
    is_string_list,
    is_token,
    is_whole,
    number_from,
)

SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("max_position_embeddings", "model_max_length"),
)
DEFAULT_THETA = 10_000
MAX_NORM_EPS = 0.1  # a much larger value would outweigh the mean square to which it is added
MIN_THETA, MAX_THETA = 1, 1e12
MAX_FACTOR = 1e6  # maximum factor of RoPE scaling
DTYPES = ("float16", "bfloat16", "float32", "float64", "half", "float", "double")
# The activations of transformers (ACT2FN); a test compares both lists.
ACTIVATIONS = (
    *("gelu", "gelu_10", "gelu_fast", "gelu_new", "gelu_python", "gelu_pytorch_tanh", "gelu_python_tanh"),
    *("gelu_accurate", "hardswish", "laplace", "leaky_relu", "linear", "mish", "quick_gelu", "relu", "relu2"),
    *("relu6", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh", "prelu", "xielu"),
)
_DTYPE = Rule(
    lambda value: isinstance(value, str) and value.removeprefix("torch.") in DTYPES,
    "float16, bfloat16 or float32 (the type that the weights are stored in)",
)
RULES = {
    **dict.fromkeys(SIZES, Rule(lambda value: is_whole(value) and value > 0, "a positive integer")),
    "rms_norm_eps": Rule(
        lambda value: is_positive(value) and value <= MAX_NORM_EPS,
        f"a number above 0, at most {MAX_NORM_EPS:g} (the published models have 1e-06)",
        nullable=False,
    ),
    "hidden_act": Rule(
        lambda value: isinstance(value, str) and value in ACTIVATIONS,
        'an activation function (the published models have "silu")',
        nullable=False,
    ),
    "torch_dtype": _DTYPE,
    "dtype": _DTYPE,
    # Some tools write -1 for "no padding".
    "pad_token_id": Rule(
        lambda value: is_token(value) or (is_whole(value) and value == -1),
        "a token id (an integer of at least 0) or null",
    ),
    "bos_token_id": TOKENS,
    "eos_token_id": TOKENS,
    "z_loss_weight": number_from(0, 1, hint="the published models have 0"),
    "initializer_range": number_from(0, 1, hint="the published models have 0.02"),
    "norm_head": SWITCH,
    "quantize_head": SWITCH,
    "tie_word_embeddings": SWITCH,
}
_BITSANDBYTES_SWITCH = Rule(lambda value: isinstance(value, bool), "true or false", nullable=False)
BITSANDBYTES_RULES = {
    "bnb_4bit_use_double_quant": _BITSANDBYTES_SWITCH,
    "bnb_4bit_compute_dtype": Rule(
        lambda value: isinstance(value, str) and value in DTYPES, "float16, bfloat16 or float32"
    ),
    "llm_int8_skip_modules": Rule(is_string_list, "a list of layer names"),
    "llm_int8_threshold": Rule(is_number, "a number (the default of bitsandbytes is 6.0)", nullable=False),
}
_THETA = replace(number_from(MIN_THETA, MAX_THETA, hint="the published models have 10000"), nullable=False)
_REQUIRED = Rule(
    lambda value: is_positive(value) and value <= MAX_FACTOR,
    f"a number above 0, at most {MAX_FACTOR:g}",
    nullable=False,
)
_SCALE = number_from(0, MAX_FACTOR)
_FACTORS = ("long_factor", "short_factor")
# The fields that each rope_type of transformers (ROPE_INIT_FUNCTIONS) requires; a test compares the types.
REQUIRED_BY_TYPE: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": (),
    "proportional": (),
}
OPTIONAL_ROPE_RULES = {
    "factor": replace(_REQUIRED, nullable=True),
    "original_max_position_embeddings": POSITIVE,
    "attention_factor": _SCALE,
    "beta_fast": _SCALE,
    "beta_slow": _SCALE,
    "mscale": _SCALE,
    "mscale_all_dim": _SCALE,
}


def check_values(fields: Mapping[str, Any]) -> None:
    """Check the values of a cleaned configuration that was read from a file.

    Raises:
        FileError: A value has the wrong type or is out of range; the message names the field.
    """
    check_fields(fields, RULES)
    settings = fields.get("quantization_config")
    if isinstance(settings, Mapping):
        check_fields(settings, BITSANDBYTES_RULES, within="quantization_config.")
    if infer_position_embedding(fields) == "rope":
        _check_rotation(fields)


def _check_rotation(fields: Mapping[str, Any]) -> None:
    theta = fields.get("rope_theta", DEFAULT_THETA)
    for name in ("rope_scaling", "rope_parameters"):
        parameters = fields.get(name) or {}
        if not isinstance(parameters, Mapping):
            raise FileError(f"{name} is {parameters!r}: use an object with rope_type and its factors, or null")
        _check_scaling(name, parameters, fields)
        if parameters.get("rope_theta", theta) != theta and "rope_theta" in fields:
            raise FileError(
                f"rope_theta is {theta!r}, but {name}.rope_theta is {parameters['rope_theta']!r}: keep one of them"
            )
        theta = parameters.get("rope_theta", theta)
    _THETA.check("rope_theta", theta)


def _check_scaling(name: str, parameters: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if not isinstance(kind, str) or kind not in REQUIRED_BY_TYPE:
        raise FileError(f"{name}.rope_type is {kind!r}: use one of {', '.join(REQUIRED_BY_TYPE)}")
    for field in REQUIRED_BY_TYPE[kind]:
        if field not in parameters:
            raise FileError(f'{name} has no {field}, which rope_type "{kind}" requires: add it, or set {name} to null')
        _REQUIRED.check(f"{name}.{field}", parameters[field])
    check_fields(parameters, OPTIONAL_ROPE_RULES, within=f"{name}.")
    if kind == "llama3" and parameters["high_freq_factor"] <= parameters["low_freq_factor"]:
        raise FileError(f"{name}.high_freq_factor is not above low_freq_factor: correct them")
    if kind == "longrope":
        _check_factors(name, parameters, fields)


def _check_factors(name: str, parameters: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    width, heads = fields.get("hidden_size"), fields.get("num_attention_heads")
    if not (is_whole(width) and is_whole(heads) and width and heads):
        return  # the size checks reject these values
    length = width // heads // 2
    for field in _FACTORS:
        factors = parameters.get(field)
        if not isinstance(factors, list) or not all(map(is_positive, factors)):
            raise FileError(f"{name}.{field} is {factors!r}: use a list of {length} numbers above 0")
        if len(factors) != length:
            raise FileError(f"{name}.{field} has {len(factors)} numbers: use {length}, half of the head dimension")
