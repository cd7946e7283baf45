"""Reads `adapter_config.json`, and rejects peft adapters whose results could not be reproduced."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .errors import FileError, UnsupportedFileError
from .field_rules import (
    SWITCH,
    Rule,
    check_fields,
    is_integer_or_list,
    is_number,
    is_positive,
    is_string_list,
    is_whole,
)
from .json_files import as_whole_numbers, read_object

CONFIG_FILE = "adapter_config.json"
# Initializations that only set the starting values of the matrices, which loading replaces.
PLAIN_INITIALIZATIONS = ("gaussian", "eva", "orthogonal", "mica")
# Initializations that change the base, and that peft repeats exactly at every load.
RESTORED_INITIALIZATIONS = ("pissa", "olora")
# Initializations that change the base by values that are not saved: random numbers, statistics of training data,
# gradients, or a quantization that peft cannot repeat here. On the unchanged base, they result in a different model.
LOST_INITIALIZATIONS = ("pissa_niter", "corda", "loftq", "lora_ga")
# Settings that add something to an adapter besides B · A and, for DoRA, a magnitude.
OTHER_FEATURES = (
    "trainable_token_indices",
    "target_parameters",
    "lora_bias",
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
)
# Settings that do not affect the result: notes, and settings that only initialization or training reads. The last
# three were written by peft before 0.4.
IGNORED_SETTINGS = (
    *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "peft_type", "peft_version"),
    *("inference_mode", "lora_dropout", "bias", "fan_in_fan_out", "megatron_config", "megatron_core"),
    *("corda_config", "eva_config", "loftq_config", "lora_ga_config", "qalora_group_size", "ensure_weight_tying"),
    *("init_lora_weights", "runtime_config", "merge_weights", "enable_lora", "lora_ids"),
)


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """Settings of a LoRA adapter that affect its result, under peft's names.

    Attributes:
        init_lora_weights: True, or the initialization that changes the base ("pissa" or "olora").
    """

    r: int
    lora_alpha: float
    target_modules: list[str] | str | None
    exclude_modules: list[str] | str | None = None
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: Mapping[str, int] | None = None
    alpha_pattern: Mapping[str, float] | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    init_lora_weights: bool | str = True

    @classmethod
    def read(cls, adapter: Path) -> Self:
        """Return the settings of an adapter directory.

        Raises:
            FileError: `adapter_config.json` is missing or damaged, or a field has an invalid value.
            UnsupportedFileError: The adapter uses another method, or its result cannot be reproduced.
        """
        file = adapter / CONFIG_FILE
        if not file.is_file():
            raise FileError(f"{file} is missing: specify the directory that fine-tuning wrote")
        content = as_whole_numbers(read_object(file), ("r", "layers_to_transform"))
        if isinstance(ranks := content.get("rank_pattern"), dict):
            content["rank_pattern"] = as_whole_numbers(ranks, ranks)
        _require_lora(content, file)
        _reject_other_features(content, file)
        known = {name: content[name] for name in cls.__dataclass_fields__ if content.get(name) is not None}
        known["init_lora_weights"] = _read_initialization(content, file)
        _check_types(known, file)
        return cls(**{"target_modules": None, **known})

    @property
    def changes_base(self) -> bool:
        """Whether the adapter's initialization changed the base."""
        return self.init_lora_weights is not True

    def rank(self, layer: str) -> int:
        """Return the rank of the matrices of a layer."""
        return int(_by_pattern(self.rank_pattern, layer, self.r))

    def scale(self, layer: str) -> float:
        """Return the factor of B · A: alpha / rank, or alpha / sqrt(rank) if rank-stabilized."""
        rank = self.rank(layer)
        return _by_pattern(self.alpha_pattern, layer, self.lora_alpha) / (math.sqrt(rank) if self.use_rslora else rank)


def _by_pattern(patterns: Mapping[str, float] | None, layer: str, default: float) -> float:
    """Return the value of the first pattern that matches the end of a layer's name, as peft does."""
    matching = (value for pattern, value in (patterns or {}).items() if re.match(rf"(.*\.)?({pattern})$", layer))
    return float(next(matching, default))


def _require_lora(content: Mapping[str, Any], file: Path) -> None:
    method = content.get("peft_type")
    if method is None:
        raise FileError(f"{file} has no peft_type: use the adapter_config.json that peft wrote")
    if str(method).upper() != "LORA":
        raise UnsupportedFileError(
            f"{file} describes an adapter of type {method}, but only LoRA adapters are supported: "
            "merge it into its base with peft (merge_and_unload, if the method has it), or train a LoRA adapter"
        )


def _reject_other_features(content: Mapping[str, Any], file: Path) -> None:
    if found := [name for name in OTHER_FEATURES if content.get(name)]:
        raise UnsupportedFileError(
            f"{file} sets {found[0]}, which is not supported because it is not plain LoRA: merge the adapter with peft"
        )
    known = {*AdapterSettings.__dataclass_fields__, *OTHER_FEATURES, *IGNORED_SETTINGS}
    if unknown := [name for name, value in content.items() if name not in known and value]:
        raise UnsupportedFileError(
            f"{file} sets {unknown[0]}, which is unknown and may change the result: merge the adapter with peft"
        )


def _read_initialization(content: Mapping[str, Any], file: Path) -> bool | str:
    value = content.get("init_lora_weights", True)
    name = value.lower() if isinstance(value, str) else ""
    if not name or name in PLAIN_INITIALIZATIONS:
        return True
    if name in RESTORED_INITIALIZATIONS:
        return name
    if name.startswith(LOST_INITIALIZATIONS):
        raise UnsupportedFileError(
            f'{file} has init_lora_weights "{value}", which changed the base in a way that no file records, so the '
            "result cannot be reproduced: convert the adapter where it was trained (peft's save_pretrained with "
            "path_initial_model_for_weight_conversion), or use the changed base and set init_lora_weights to true"
        )
    raise UnsupportedFileError(
        f'{file} has init_lora_weights "{value}", which is unknown and may have changed the base: '
        "merge the adapter with peft"
    )


def _check_types(known: Mapping[str, Any], file: Path) -> None:
    for name in ("r", "lora_alpha"):
        value = known.get(name)
        if not (_is_rank(value) if name == "r" else is_positive(value)):
            raise FileError(f"{file} is damaged, {name} is {value!r}: copy the whole adapter again")
    try:
        check_fields(known, RULES)
        for name, expression in _find_expressions(known):
            _check_expression(name, expression)
    except FileError as fault:
        raise FileError(f"{file} cannot be used: {fault}") from None
    if known.get("layers_pattern") and "layers_to_transform" not in known:
        raise FileError(
            f"{file} sets layers_pattern without layers_to_transform: add layers_to_transform or remove layers_pattern"
        )


def _find_expressions(known: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the regular expressions in the settings, each with the name of its field."""
    whole = [(name, known.get(name)) for name in ("target_modules", "exclude_modules", "layers_pattern")]
    found = [(name, value) for name, value in whole if isinstance(value, str)]
    if isinstance(patterns := known.get("layers_pattern"), list):
        found += [("layers_pattern", pattern) for pattern in patterns]
    return found + [(name, pattern) for name in ("rank_pattern", "alpha_pattern") for pattern in known.get(name, {})]


def _check_expression(name: str, expression: str) -> None:
    try:
        # peft embeds a pattern in a longer expression, where "(?i)", for example, is not allowed.
        re.compile(rf"(.*\.)?({expression})$" if name.endswith("_pattern") else expression)
    except (re.error, RecursionError, OverflowError) as error:
        raise FileError(
            f"{name} contains {expression!r}, which is not a valid regular expression ({error}): "
            "restore the value of the original adapter"
        ) from None


def _is_rank(value: Any) -> bool:
    return is_whole(value) and value > 0


def _is_names(value: Any) -> bool:
    return isinstance(value, str) or is_string_list(value)


NAMES = Rule(_is_names, "a list of names or one regular expression")
RULES = {
    "target_modules": NAMES,
    "exclude_modules": NAMES,
    "layers_pattern": NAMES,
    "modules_to_save": Rule(is_string_list, "a list of names"),
    "layers_to_transform": Rule(is_integer_or_list, "a block number or a list of block numbers"),
    "use_rslora": SWITCH,
    "use_dora": SWITCH,
    "rank_pattern": Rule(
        lambda value: isinstance(value, Mapping) and all(map(_is_rank, value.values())),
        "an object of positive integers",
    ),
    "alpha_pattern": Rule(
        lambda value: isinstance(value, Mapping) and all(map(is_number, value.values())), "an object of numbers"
    ),
}
