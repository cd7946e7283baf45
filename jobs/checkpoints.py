"""What can be told of a checkpoint directory without loading it: is it allowed, is it complete, what is it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from footprint import Precision, ShapeError
from jobs.errors import InvalidRequestError, PathNotAllowedError
from jobs.model_details import check_details

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
GGUF = "gguf"  # the kind of models that llama.cpp runs
LLAMA = "llama"  # the kind of converted models that are for other programs
SHOWN = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
    "model_max_length",
    "position_embedding",
    "norm_head",
    "tie_word_embeddings",
)


@dataclass(frozen=True, slots=True)
class Inspection:
    """A complete model: `kind` is "checkpoint", "adapter" or "gguf", `details` what is worth showing."""

    kind: str
    details: dict[str, Any]


def allowed_path(path: str, roots: Sequence[Path]) -> Path:
    """The real directory behind `path`.

    Raises:
        PathNotAllowedError: it, or a file in it, lies outside the allowed roots once symbolic links are followed.
        InvalidRequestError: it is not a directory.
    """
    where = ", ".join(str(root) for root in roots)
    given = Path(path)
    if not given.is_absolute() or ".." in given.parts:
        raise PathNotAllowedError(f"give an absolute path without '..' below one of: {where}", param="path")
    real = given.resolve()
    if not any(real.is_relative_to(root) for root in roots):
        raise PathNotAllowedError(
            f"{path} is not below an allowed model root; move it below one of: {where}", param="path"
        )
    if not real.is_dir():
        raise InvalidRequestError(f"{path} is not a directory on the server", param="path")
    for file in real.iterdir():
        if not any(file.resolve().is_relative_to(root) for root in roots):
            message = f"{file.name} is a link that leads out of the allowed model roots; copy the file instead"
            raise PathNotAllowedError(message, param="path")
    return real


def inspect(folder: Path) -> Inspection:
    """Tell what the directory holds.

    Raises:
        InvalidRequestError: it is neither a complete Baichuan checkpoint nor a LoRA adapter; says what is missing.
    """
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    if (folder / "adapter_config.json").exists():
        adapter = _read_json(folder / "adapter_config.json")
        settings = {"lora_rank": adapter.get("r"), "lora_alpha": adapter.get("lora_alpha")}
        return _inspected("adapter", {"bytes": size, **settings}, "adapter_config.json")
    config = _read_json(folder / "config.json")
    if config.get("model_type") != "baichuan":
        message = f"config.json says model_type {config.get('model_type')!r}; only 'baichuan' checkpoints can be used"
        raise InvalidRequestError(message, param="path")
    is_gguf = any(folder.glob("*.gguf"))
    if not is_gguf and not any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
        raise InvalidRequestError("no weights: expected *.safetensors, pytorch_model*.bin or *.gguf", param="path")
    if not (folder / "tokenizer.model").exists():
        message = "tokenizer.model is missing; copy it from the published checkpoint into the directory"
        raise InvalidRequestError(message, param="path")
    details = {name: config[name] for name in SHOWN if name in config}
    if is_gguf:
        return _inspected(GGUF, {"bytes": size, **details}, "config.json")
    held = {"quantization": _quantization(config), "precision": _precision(config)}
    return _inspected("checkpoint", {"bytes": size, **details, **held}, "config.json")


def _inspected(kind: str, found: dict[str, Any], file: str) -> Inspection:
    return Inspection(kind, check_details(kind, found, file))


def _quantization(config: dict[str, Any]) -> str | None:
    settings = config.get("quantization_config") or {}
    if settings.get("load_in_8bit"):
        return "int8"
    return str(settings.get("bnb_4bit_quant_type", "4-bit")) if settings.get("load_in_4bit") else None


def _precision(config: dict[str, Any]) -> dict[str, Any] | None:
    """How the numbers are held, as `footprint` counts them; None where it cannot."""
    try:
        return asdict(Precision.from_config(config))
    except ShapeError:
        return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidRequestError(f"{path.name} is missing in the directory", param="path") from None
    except OSError as error:
        raise InvalidRequestError(f"{path.name} cannot be read: {error.strerror}", param="path") from None
    except ValueError as error:
        raise InvalidRequestError(f"{path.name} is not valid JSON: {error}", param="path") from None
    if not isinstance(content, dict):
        raise InvalidRequestError(f"{path.name} must hold a JSON object", param="path")
    return content
