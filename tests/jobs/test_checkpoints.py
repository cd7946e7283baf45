"""Registering a directory: only complete checkpoints, and only below the allowed roots, even with symbolic links."""

import json
import os
from pathlib import Path

import pytest

from jobs.errors import InvalidRequestError, PathNotAllowedError
from jobs.models.directories import inspect_directory, resolve_allowed_path
from tests.model_files import write_model_files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder.resolve()


def make_checkpoint(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "baichuan", "hidden_size": 64, **config}))
    (folder / "model.safetensors").write_bytes(b"0123")
    (folder / "tokenizer.model").write_bytes(b"0")
    return folder


def test_a_complete_checkpoint_is_described(root: Path) -> None:
    quantization = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    write_model_files(root / "a", quantization_config=quantization)
    found = inspect_directory(resolve_allowed_path(str(root / "a"), [root]))
    assert (found.kind, found.details["hidden_size"], found.details["quantization"]) == ("checkpoint", 8, "nf4")


def test_settings_of_a_quantization_that_was_never_applied_are_not_shown(root: Path) -> None:
    write_model_files(root / "a")
    config = json.loads((root / "a" / "config.json").read_text())
    settings = config | {"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}
    (root / "a" / "config.json").write_text("\N{ZERO WIDTH NO-BREAK SPACE}" + json.dumps(settings), encoding="utf-8")
    found = inspect_directory(root / "a")
    assert found.details["quantization"] is None
    assert found.details["precision"]["quantization"] is None


def test_adapters_are_distinguished_from_checkpoints(root: Path) -> None:
    (root / "lora").mkdir()
    (root / "lora" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
    assert inspect_directory(root / "lora").kind == "adapter"


def test_a_gguf_file_with_configuration_and_tokenizer_is_a_model(root: Path) -> None:
    folder = make_checkpoint(root / "gguf")
    (folder / "model.safetensors").rename(folder / "model.gguf")
    found = inspect_directory(folder)
    assert (found.kind, found.details["hidden_size"], "precision" in found.details) == ("gguf", 64, False)


def test_paths_outside_are_refused(root: Path, tmp_path: Path) -> None:
    outside = make_checkpoint(tmp_path / "outside")
    (root / "link").symlink_to(outside)
    inside = make_checkpoint(root / "inside")
    (inside / "secret").symlink_to("/etc/passwd")
    for path in (str(outside), str(root / "link"), str(root / ".." / "outside"), "models/inside", str(inside)):
        with pytest.raises(PathNotAllowedError):
            resolve_allowed_path(path, [root])


def test_a_link_that_stays_inside_is_followed(root: Path) -> None:
    make_checkpoint(root / "real")
    (root / "alias").symlink_to(root / "real")
    assert resolve_allowed_path(str(root / "alias"), [root]) == root / "real"


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "must contain a JSON object"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "llama"}'), "describes a 'llama' model"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (lambda folder: (folder / "tokenizer.model").unlink(), "tokenizer.model is missing; copy it"),
    ],
)
def test_missing_files_are_named(root: Path, break_it: object, says: str) -> None:
    folder = make_checkpoint(root / "broken")
    break_it(folder)  # type: ignore[operator]
    with pytest.raises(InvalidRequestError, match=says):
        inspect_directory(folder)


def test_a_directory_instead_of_a_file_is_named(root: Path) -> None:
    folder = make_checkpoint(root / "odd")
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    with pytest.raises(InvalidRequestError, match=r"config.json cannot be read: Is a directory"):
        inspect_directory(folder)


def test_a_fifo_does_not_block_even_if_it_appears_after_the_check(root: Path) -> None:
    folder = make_checkpoint(root / "fifo")
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(InvalidRequestError, match=r"config.json is not a regular file"):
        inspect_directory(folder)


def test_a_registered_name_must_be_utf8(root: Path) -> None:
    real = Path(os.fsdecode(os.fsencode(root) + b"/\xff"))
    make_checkpoint(real)
    (root / "alias").symlink_to(real)
    with pytest.raises(InvalidRequestError, match=r"the name \\udcff is not valid UTF-8"):
        resolve_allowed_path(str(root / "alias"), [root])
