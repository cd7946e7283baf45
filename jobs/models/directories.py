"""Checks a model directory without loading it: whether it is allowed and complete, and what it contains."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from checkpoint_files import (
    MORE_TEMPLATES,
    AdapterSettings,
    FileError,
    find_weights,
    read_config,
    read_object,
    read_settled_config,
)
from footprint import Precision, ShapeError
from jobs.errors import InvalidRequestError, PathNotAllowedError
from jobs.models.details import check_details
from jobs.models.shown_config import ShownAdapterConfig, ShownConfig

CONFIG_FILE = "config.json"
ADAPTER_CONFIG_FILE = "adapter_config.json"
GGUF_KIND = "gguf"  # the kind of model that llama.cpp runs
LLAMA_KIND = "llama"  # the kind of converted model that only other programs can read


@dataclass(frozen=True, slots=True)
class InspectedModel:
    """A complete model: its kind ("checkpoint", "adapter", "gguf", …) and the details to show."""

    kind: str
    details: dict[str, Any]


def resolve_allowed_path(path: str, roots: Sequence[Path]) -> Path:
    """Return the real path of a model directory.

    Raises:
        PathNotAllowedError: After resolving symbolic links, the path or a file in the directory is outside the allowed
            roots.
        InvalidRequestError: The path is not a directory.
    """
    where = ", ".join(str(root) for root in roots)
    given = Path(path)
    if not given.is_absolute() or ".." in given.parts:
        raise PathNotAllowedError(f"{path} is not an absolute path without '..'; use one under: {where}", param="path")
    real = _resolve(given)
    if not any(real.is_relative_to(root) for root in roots):
        raise PathNotAllowedError(
            f"{path} is not under an allowed model root; move it under one of: {where}", param="path"
        )
    if not real.is_dir():
        raise InvalidRequestError(f"{path} is not a directory on the server", param="path")
    if _escape_name(real) != real.name:
        raise InvalidRequestError(f"the name {_escape_name(real)} is not valid UTF-8; rename it", param="path")
    for file in (*real.iterdir(), *(real / MORE_TEMPLATES).glob("*")):
        _check_entry(file, roots)
    return real


def _check_entry(file: Path, roots: Sequence[Path]) -> None:
    real = _resolve(file)
    if not any(real.is_relative_to(root) for root in roots):
        message = f"{_escape_name(file)} is a link that points outside the allowed model roots; copy the file instead"
        raise PathNotAllowedError(message, param="path")
    if not (real.is_file() or real.is_dir()):
        message = f"{_escape_name(file)} is neither a file nor a directory; remove it or replace it with a copy"
        raise InvalidRequestError(message, param="path")


def _resolve(path: Path) -> Path:
    """Resolve symbolic links; for circular ones, Python 3.13 raises no error, but the result does not exist."""
    try:
        return path.resolve()
    except RuntimeError:
        message = f"{_escape_name(path)} is a link to itself; replace it with a copy"
        raise InvalidRequestError(message, param="path") from None


def _escape_name(path: Path) -> str:
    """Return the name with invalid UTF-8 escaped, because no response can contain invalid UTF-8."""
    return path.name.encode("utf-8", "backslashreplace").decode()


def inspect_directory(folder: Path) -> InspectedModel:
    """Identify the model in a directory, and return its kind and details.

    Raises:
        InvalidRequestError: The directory contains neither a complete Baichuan model nor a LoRA adapter; the message
            says what is missing.
    """
    try:
        return _inspect_directory(folder)
    except FileError as error:
        raise InvalidRequestError(str(error), param="path") from None


def _inspect_directory(folder: Path) -> InspectedModel:
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    if (folder / ADAPTER_CONFIG_FILE).exists():
        AdapterSettings.read(folder)
        adapter = ShownAdapterConfig.from_content(ADAPTER_CONFIG_FILE, read_object(folder / ADAPTER_CONFIG_FILE))
        settings = {"lora_rank": adapter.r, "lora_alpha": adapter.lora_alpha}
        return _make_inspection("adapter", {"bytes": size, **settings}, ADAPTER_CONFIG_FILE)
    shown = ShownConfig.from_content(CONFIG_FILE, read_config(folder))
    is_gguf = any(folder.glob("*.gguf"))
    if not is_gguf:
        find_weights(folder)
    if not (folder / "tokenizer.model").exists():
        message = "tokenizer.model is missing; copy it from the published checkpoint into the directory"
        raise InvalidRequestError(message, param="path")
    details = {"bytes": size, **shown.details()}
    if is_gguf:
        return _make_inspection(GGUF_KIND, details, CONFIG_FILE)
    settled = read_settled_config(folder)  # without quantization settings that do not match the weights
    quantization = ShownConfig.from_content(CONFIG_FILE, settled).quantization
    return _make_inspection(
        "checkpoint", {**details, "quantization": quantization, "precision": _read_precision(settled)}, CONFIG_FILE
    )


def _make_inspection(kind: str, found: dict[str, Any], file: str) -> InspectedModel:
    return InspectedModel(kind, check_details(kind, found, file))


def _read_precision(config: dict[str, Any]) -> dict[str, Any] | None:
    """Return the precision of the weights as `footprint` defines it; None if `footprint` does not know it."""
    try:
        return asdict(Precision.from_config(config))
    except ShapeError:
        return None
