"""Translates the names and presets of Baichuan2's fine-tune.py into fields of a `finetune` spec."""

from collections.abc import Callable, Mapping
from typing import Any

from jobs.specs.hostfile import read_hostfile

FIELD_BY_PUBLISHED_NAME: Mapping[str, str] = {
    "data_path": "training_file",
    "eval_data_path": "validation_file",
    "model_name_or_path": "model",
    "output_dir": "output_model",
    "model_max_length": "max_length",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "lr_scheduler_type": "scheduler",
    "neftune": "neftune_noise_alpha",
    "lora_r": "lora_rank",
    "target_modules": "lora_target_modules",
    "optim": "optimizer",
}
# Published options whose values have to be translated, not only their names.
TRANSLATED_OPTIONS = ("use_lora", "bf16", "report_to", "deepspeed", "hostfile")
PUBLISHED_LORA_RANK = 1
TRACKERS = ("wandb", "mlflow")
DEEPSPEED_PRESETS = ("zero2", "zero3", "zero3-offload")

# The same presets as in `baichuan_core.finetuning.options`; a test compares them.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "baichuan2-published": {
        "epochs": 4,
        "batch_size": 16,
        "max_length": 512,
        "learning_rate": 2e-5,
        "scheduler": "constant",
        "adam_beta1": 0.9,
        "adam_beta2": 0.98,
        "adam_epsilon": 1e-8,
        "max_grad_norm": 1.0,
        "weight_decay": 1e-4,
        "warmup_ratio": 0.0,
        "gradient_checkpointing": True,
        "save_strategy": "epoch",
        "lora_rank": PUBLISHED_LORA_RANK,
        "lora_alpha": 32,
        "lora_dropout": 0.1,
        "lora_target_modules": ["W_pack"],
    },
    "recommended": {
        "method": "lora",
        "epochs": 3,
        "learning_rate": 2e-4,
        "scheduler": "cosine",
        "warmup_ratio": 0.03,
        "weight_decay": 0.0,
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "lora_target_modules": ["W_pack", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "gradient_checkpointing": True,
    },
}


def translate_published_names(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a spec under our names, with the values of its preset filled in.

    Raises:
        ValueError: A field is given twice, or a published switch has a value that is not possible here.
    """
    ours = {
        name: value
        for name, value in body.items()
        if name not in FIELD_BY_PUBLISHED_NAME and name not in TRANSLATED_OPTIONS
    }
    for name, value in body.items():
        if (field := FIELD_BY_PUBLISHED_NAME.get(name)) is not None:
            _set_field(ours, name, field, value)
    for switch, apply in _OPTION_TRANSLATORS.items():
        if switch in body:
            apply(ours, body[switch])
    if "data_path" in body and "method" not in ours and "preset" not in ours:
        ours["method"] = "full"  # as fine-tune.py does without use_lora
    if isinstance(targets := ours.get("lora_target_modules"), str):
        ours["lora_target_modules"] = [name.strip() for name in targets.split(",")]
    preset = ours.get("preset")
    return {**PRESETS.get(preset, {}), **ours} if isinstance(preset, str) else ours


def _set_field(fields: dict[str, Any], given: str, field: str, value: Any) -> None:
    if field in fields:
        raise ValueError(f"{given} is another name for {field}, and both are given; leave one out")
    fields[field] = value


def _parse_bool(name: str, value: Any) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    if (truth := known.get(str(value).lower())) is None:
        raise ValueError(f"{name} is {value!r}; use true or false")
    return truth


def _apply_use_lora(fields: dict[str, Any], value: Any) -> None:
    uses = _parse_bool("use_lora", value)
    _set_field(fields, "use_lora", "method", "lora" if uses else "full")
    if uses and "preset" not in fields:
        fields.setdefault("lora_rank", PUBLISHED_LORA_RANK)


def _apply_bf16(fields: dict[str, Any], value: Any) -> None:
    _set_field(fields, "bf16", "dtype", "bfloat16" if _parse_bool("bf16", value) else "float32")


def _apply_report_to(fields: dict[str, Any], value: Any) -> None:
    if value in ("none", "", None, []):
        return
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(name in TRACKERS for name in names):
        raise ValueError(
            f"report_to is {value!r}; use 'none', 'wandb' or 'mlflow' (the metrics, a plot and TensorBoard files"
            " are always saved as artifacts of the job)"
        )
    fields["report_to"] = list(dict.fromkeys(names))


def _apply_deepspeed(fields: dict[str, Any], value: Any) -> None:
    """Accept the name of a preset, which is a strategy, or a whole DeepSpeed configuration."""
    if value in (None, ""):
        return
    if isinstance(value, str):
        if value not in DEEPSPEED_PRESETS:
            presets = ", ".join(DEEPSPEED_PRESETS)
            raise ValueError(f"deepspeed is {value!r}; use {presets}, or a configuration as a JSON object")
        _set_field(fields, "deepspeed", "strategy", value)
        return
    zero = _require_json_object("deepspeed", value).get("zero_optimization", {})
    _require_json_object("deepspeed.zero_optimization", zero)
    fields["deepspeed"] = value


def _require_json_object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r}; it must be a JSON object")  # noqa: TRY004 - pydantic reports ValueErrors
    return value


def _apply_hostfile(fields: dict[str, Any], value: Any) -> None:
    """Accept the content of a hostfile; an empty file sets nothing."""
    if value in (None, ""):
        return
    if not isinstance(value, str):
        raise ValueError(f"hostfile is {value!r}; pass the content of a hostfile as a string")  # noqa: TRY004 - as above
    resources = _require_json_object("resources", fields.get("resources") or {})
    for name, asked in read_hostfile(value).items():
        if name in resources:
            raise ValueError(f"hostfile and resources.{name} are both given; leave one out")
        resources = {**resources, name: asked}
    fields["resources"] = resources or None


_OPTION_TRANSLATORS: Mapping[str, Callable[[dict[str, Any], Any], None]] = {
    "use_lora": _apply_use_lora,
    "bf16": _apply_bf16,
    "report_to": _apply_report_to,
    "deepspeed": _apply_deepspeed,
    "hostfile": _apply_hostfile,
}
