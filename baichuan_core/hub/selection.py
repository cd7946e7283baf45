"""Selects the files of a repository that make up its model. Other files and code are never downloaded."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from baichuan_core.checkpoint.file_errors import translate_file_errors
from baichuan_core.errors import HubError, UnsupportedError
from checkpoint_files import MORE_TEMPLATES, read_weight_map
from checkpoint_files.adapter_layers import WEIGHT_FILES as ADAPTER_WEIGHT_FILES
from checkpoint_files.adapter_settings import CONFIG_FILE as ADAPTER_CONFIG
from checkpoint_files.tokenizer_files import MODEL as TOKENIZER
from checkpoint_files.weights import GPTQ_SETTINGS, WEIGHT_FILES

from .client import RemoteFile, Repository

SETTINGS_FILES = (
    "config.json",
    "generation_config.json",
    ADAPTER_CONFIG,
    "baichuan_base.json",
    TOKENIZER,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
TEXT_FILE_NAME_PATTERN = re.compile(r"(readme|notice|.*licen[sc]e|.*许可).*", re.IGNORECASE)
TEXT_FILE_SUFFIXES = frozenset({"", ".md", ".txt", ".rst", ".pdf"})


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of the model in a repository.

    Attributes:
        repository: The repository.
        settings: The small files of the model, including the index of the weights if they are sharded.
        weights: The weight file, or the index if the weights are sharded.
    """

    repository: Repository
    settings: tuple[RemoteFile, ...]
    weights: RemoteFile

    def list_weights(self, folder: Path) -> list[RemoteFile]:
        """Return the weight files; the files of `settings` must already be in `folder`.

        Raises:
            HubError: The index names a file that the repository does not have.
            CheckpointError: The index is damaged.
        """
        if not self.weights.path.endswith(".json"):
            return [self.weights]
        with translate_file_errors():
            shards = sorted(set(read_weight_map(folder / self.weights.path).values()))
        ending = PurePosixPath(self.weights.path.removesuffix(".index.json")).suffix
        known = {file.path: file for file in self.repository.files if file.path.endswith(ending)}
        if missing := [shard for shard in shards if shard not in known]:
            raise HubError(
                f"{self.repository.name} lacks {missing[0]}, which {self.weights.path} lists: choose another revision"
            )
        return [known[shard] for shard in shards]


def select_files(repository: Repository) -> ModelFiles:
    """Select a repository's model: safetensors if there are any, else `.bin` files, an adapter or a single GGUF file.

    Raises:
        HubError: It has no model in a supported format.
        UnsupportedError: Its weights were quantized by AutoGPTQ or AutoAWQ.
    """
    files = {file.path: file for file in repository.files}
    if labels := [name for name in GPTQ_SETTINGS if name in files]:
        raise UnsupportedError(
            f"{repository.name} was quantized with AutoGPTQ or AutoAWQ, as its file {labels[0]} shows: pull the "
            "unquantized repository and submit a quantize job"
        )
    weights = files[_find_weights(repository.name, files)]
    if ADAPTER_CONFIG not in files and TOKENIZER not in files:
        raise HubError(f"{repository.name} has no {TOKENIZER}: pull the published repository, or a copy with this file")
    settings = [file for path, file in files.items() if _is_settings_file(path)]
    if weights.path.endswith(".json"):
        settings.append(weights)
    return ModelFiles(repository, tuple(settings), weights)


def _find_weights(name: str, paths: Collection[str]) -> str:
    expected: Iterable[str] = ADAPTER_WEIGHT_FILES if ADAPTER_CONFIG in paths else WEIGHT_FILES
    if found := next((path for path in expected if path in paths), None):
        return found
    gguf = sorted(path for path in paths if path.endswith(".gguf") and "/" not in path)
    if len(gguf) > 1:
        raise HubError(
            f"{name} has {len(gguf)} GGUF files and no checkpoint: pull a checkpoint and submit a convert job"
        )
    if not gguf:
        raise HubError(f"{name} has no weights: expected one of {', '.join(expected)} at the top level")
    return gguf[0]


def _is_settings_file(path: str) -> bool:
    parts = PurePosixPath(path).parts
    if len(parts) > 1:
        return parts[:-1] == (MORE_TEMPLATES,) and path.endswith(".jinja")
    is_text = (
        PurePosixPath(path).suffix.lower() in TEXT_FILE_SUFFIXES and TEXT_FILE_NAME_PATTERN.fullmatch(path) is not None
    )
    return path in SETTINGS_FILES or is_text
