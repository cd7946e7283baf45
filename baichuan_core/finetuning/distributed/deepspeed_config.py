"""DeepSpeed configurations: our presets, and checks of callers' configurations before any process starts."""

import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Literal

from baichuan_core.errors import UnsupportedError
from baichuan_core.finetuning.options import FinetuningOptions

ZeroStrategy = Literal["zero2", "zero3", "zero3-offload"]

# Top-level keys that are passed on to DeepSpeed.
SUPPORTED_KEYS = (
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping", "bf16",
    "fp16", "zero_optimization", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer",
    "communication_data_type", "prescale_gradients", "gradient_predivide_factor", "steps_per_print",
    "wall_clock_breakdown", "dump_state", "memory_breakdown", "flops_profiler", "comms_logger", "data_types", "aio",
)  # fmt: skip
# Keys that are rejected, and the options to use instead.
REPLACED_BY_OPTIONS = {
    "optimizer": "optimizer, learning_rate, weight_decay and adam_*",
    "scheduler": "lr_scheduler and warmup_*",
    "activation_checkpointing": "gradient_checkpointing",
    "seed": "seed",
}
ZERO_STAGES = (1, 2, 3)
OFFLOAD_KEYS = ("offload_optimizer", "offload_param")
# Defaults: torch's AdamW, because DeepSpeed's must be compiled on first use, and no periodic output.
DEFAULT_SETTINGS = {
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
    "steps_per_print": 2**31,
    "wall_clock_breakdown": False,
}


def make_zero_preset(strategy: ZeroStrategy, *, on_gpu: bool) -> dict[str, Any]:
    """Return the configuration for a ZeRO strategy, with the stages of Rajbhandari et al. 2020 (arXiv 1910.02054)."""
    zero: dict[str, Any] = {"stage": 2 if strategy == "zero2" else 3, "overlap_comm": on_gpu}
    if strategy == "zero3-offload":
        zero |= {name: {"device": "cpu", "pin_memory": on_gpu} for name in OFFLOAD_KEYS}
    return {"zero_optimization": zero}


def complete_config(given: Mapping[str, Any], options: FinetuningOptions, *, bfloat16: bool) -> dict[str, Any]:
    """Return a complete DeepSpeed configuration that agrees with the options.

    Args:
        given: A preset or a caller's configuration; each "auto" is replaced by the value from the options.
        options: Options of the run.
        bfloat16: Whether the run computes in bfloat16.

    Raises:
        UnsupportedError: A key is unknown, has an invalid value, or contradicts an option; the message names it.
    """
    config = deepcopy(dict(given))
    for key in config:
        if key in REPLACED_BY_OPTIONS:
            raise _make_invalid_config_error(
                key, f"is set by the fine-tuning options ({REPLACED_BY_OPTIONS[key]}); remove this key"
            )
        if key not in SUPPORTED_KEYS:
            raise _make_invalid_config_error(key, f"is not supported; supported keys are {', '.join(SUPPORTED_KEYS)}")
    _fill_auto_values(config, options)
    _check_precision(config, bfloat16=bfloat16)
    _check_zero_section(config)
    return {**DEFAULT_SETTINGS, **config}


def _fill_auto_values(config: dict[str, Any], options: FinetuningOptions) -> None:
    expected = {
        "train_micro_batch_size_per_gpu": ("batch_size", options.batch_size),
        "gradient_accumulation_steps": ("gradient_accumulation_steps", options.gradient_accumulation_steps),
        "gradient_clipping": ("max_grad_norm", options.max_grad_norm),
    }
    for key, (option, value) in expected.items():
        if config.get(key, "auto") not in ("auto", value):
            raise _make_invalid_config_error(key, f'is {config[key]!r}, but {option} is {value}; set {key} to "auto"')
        config[key] = value
    if config.pop("train_batch_size", "auto") != "auto":
        raise _make_invalid_config_error(
            "train_batch_size", 'is computed from the number of processes; set it to "auto"'
        )


def _check_precision(config: dict[str, Any], *, bfloat16: bool) -> None:
    if _get_section(config, "fp16").get("enabled", False) not in (False, "auto"):
        raise _make_invalid_config_error(
            "fp16.enabled", 'must be false or "auto": training computes in float32 or bfloat16'
        )
    config.pop("fp16", None)
    section = _get_section(config, "bf16")
    if section.get("enabled", "auto") not in ("auto", bfloat16):
        dtype = "bfloat16" if bfloat16 else "float32"
        raise _make_invalid_config_error(
            "bf16.enabled", f'is {section["enabled"]!r}, but dtype is {dtype}; set bf16.enabled to "auto"'
        )
    config["bf16"] = {**section, "enabled": bfloat16}


def _check_zero_section(config: dict[str, Any]) -> None:
    zero = _get_section(config, "zero_optimization")
    if zero.get("stage") not in ZERO_STAGES:
        raise _make_invalid_config_error(
            "zero_optimization.stage", f"is {zero.get('stage')!r}; use 1, 2 or 3, or strategy 'ddp'"
        )
    for name in OFFLOAD_KEYS:
        path = f"zero_optimization.{name}"
        device = _get_section(config, path, zero).get("device", "none")
        if device not in ("cpu", "none"):
            raise _make_invalid_config_error(f"{path}.device", f"is {device!r}; use 'cpu' or 'none'")
    if zero["stage"] < 3 and _get_section(config, "", zero, "offload_param").get("device", "none") != "none":  # noqa: PLR2004
        raise _make_invalid_config_error(
            "zero_optimization.offload_param", "requires stage 3; set stage to 3 or remove this key"
        )
    # Disabled because `gather_trained_weights` gathers the weights instead, one tensor at a time.
    zero["stage3_gather_16bit_weights_on_model_save"] = False
    config["zero_optimization"] = zero
    _check_zero_fields(zero)


def _check_zero_fields(zero: Mapping[str, Any]) -> None:
    """Check the names and types of ZeRO's fields with DeepSpeed's own class."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig  # noqa: PLC0415 - slow to import; used only with ZeRO
    from pydantic import ValidationError  # noqa: PLC0415 - see above

    try:
        DeepSpeedZeroConfig(**{name: value for name, value in zero.items() if value != "auto"})
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, ("zero_optimization", *first["loc"])))
        raise _make_invalid_config_error(
            path, f"is {first['input']!r}: {first['msg']}; correct or remove it"
        ) from error


def _get_section(config: Mapping[str, Any], path: str, inside: Any = None, name: str | None = None) -> dict[str, Any]:
    section = (config if inside is None else inside).get(name or path.rpartition(".")[2], {})
    if not isinstance(section, dict):
        raise _make_invalid_config_error(path or str(name), f"is {json.dumps(section)}; it must be a JSON object")
    return section


def _make_invalid_config_error(path: str, problem: str) -> UnsupportedError:
    return UnsupportedError(f"the DeepSpeed configuration is invalid: {path} {problem}")
