"""Settings in `adapter_config.json` that no adapter can have are rejected by file and field."""

import json
from pathlib import Path
from typing import Any

import pytest

from checkpoint_files import AdapterSettings, FileError

ADAPTER: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["W_pack"]}


def read(folder: Path, **changes: Any) -> AdapterSettings:
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER | changes))
    return AdapterSettings.read(folder)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("target_modules", "((", "contains '((', which is not a valid regular expression"),
        ("exclude_modules", "((", "contains '((', which is not a valid regular expression"),
        ("rank_pattern", {"((": 4}, "contains '((', which is not a valid regular expression"),
        ("alpha_pattern", {"[": 4}, "contains '[', which is not a valid regular expression"),
        ("alpha_pattern", {"(?i)w_pack": 4}, "contains '(?i)w_pack', which is not a valid regular expression"),
        ("target_modules", 5, "is 5: set it to a list of names or one regular expression"),
        ("target_modules", ["W_pack", 5], "set it to a list of names"),
        ("modules_to_save", 5, "is 5: set it to a list of names"),
        ("layers_to_transform", "0", "is '0': set it to a block number"),
        ("layers_to_transform", [0, "1"], "set it to a block number"),
        ("layers_pattern", "layers", "without layers_to_transform: add layers_to_transform"),
        ("alpha_pattern", {"W_pack": None}, "set it to an object of numbers"),
        ("alpha_pattern", {"W_pack": "4"}, "set it to an object of numbers"),
        ("rank_pattern", {"W_pack": 4.5}, "set it to an object of positive integers"),
        ("rank_pattern", {"W_pack": "4"}, "set it to an object of positive integers"),
        ("rank_pattern", {"W_pack": 0}, "set it to an object of positive integers"),
        ("rank_pattern", [4], "set it to an object of positive integers"),
        ("use_dora", "false", "is 'false': set it to true or false"),
        ("lora_alpha", "4", "is '4'"),
        ("r", True, "is True"),
    ],
)
def test_a_setting_that_no_adapter_has_is_rejected(tmp_path: Path, field: str, value: Any, says: str) -> None:
    with pytest.raises(FileError) as caught:
        read(tmp_path, **{field: value})
    assert str(tmp_path / "adapter_config.json") in str(caught.value)
    assert field in str(caught.value)
    assert says in str(caught.value)


def test_settings_that_peft_writes_are_accepted(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        target_modules=r".*\.(W_pack|o_proj)",
        exclude_modules=None,
        layers_pattern=[],
        rank_pattern={r"layers\.1\..*": 4.0},
        alpha_pattern={"W_pack": 3},
        use_dora=False,
    )
    assert settings.rank("model.layers.1.mlp.gate_proj") == 4
    assert read(tmp_path, layers_to_transform=1, layers_pattern="layers").layers_pattern == "layers"
