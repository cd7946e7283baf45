"""Finds the weight files of a checkpoint and reads their headers."""

import re
from collections.abc import Mapping
from pathlib import Path

from .errors import FileError, UnsupportedFileError
from .headers import Header, Headers, StoredObject, read_headers
from .json_files import read_object, reject_byte_order_mark

SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# Ordered as transformers looks for them.
WEIGHT_FILES = (*SAFETENSORS, *PICKLED)
SAFETENSORS_SHARDS, PICKLED_SHARDS = "model-*-of-*.safetensors", "pytorch_model-*-of-*.bin"
# Settings files of AutoGPTQ and AutoAWQ, which name their weight files differently.
GPTQ_SETTINGS = ("quantize_config.json", "quant_config.json")
# Buffers that Baichuan 1 7B stores although the configuration determines them.
DERIVED = re.compile(r"rotary_emb\.inv_freq$")
PUBLISHED_INT4_STATE = ".weight.quant_state"


def find_weights(checkpoint: Path) -> Path:
    """Return the weight file, or the index of shards, that transformers would load.

    Raises:
        FileError: There is no such file.
        UnsupportedFileError: The weights are those of AutoGPTQ or AutoAWQ.
    """
    for settings in GPTQ_SETTINGS:
        if (checkpoint / settings).is_file():
            raise UnsupportedFileError(
                f"{checkpoint} was quantized by AutoGPTQ or AutoAWQ (it contains {settings}): "
                "use an unquantized or bitsandbytes checkpoint (if its weights are unquantized, remove that file)"
            )
    for name in WEIGHT_FILES:
        if (checkpoint / name).is_file():
            return checkpoint / name
    if next(checkpoint.glob("*.gguf"), None):
        raise FileError(
            f"{checkpoint} contains a GGUF file, for llama.cpp: use the checkpoint that the file was made from"
        )
    for shards, index in ((SAFETENSORS_SHARDS, SAFETENSORS[1]), (PICKLED_SHARDS, PICKLED[1])):
        if next(checkpoint.glob(shards), None):
            raise FileError(
                f"{checkpoint} has shards of weights but no index: copy or download {index}, which lists the shards"
            )
    if next(checkpoint.glob("global_step*"), None):
        raise FileError(
            f"{checkpoint} has no weights, only the training state of DeepSpeed: run its zero_to_fp32.py, or use a "
            "checkpoint that was saved with stage3_gather_16bit_weights_on_model_save"
        )
    raise FileError(f"{checkpoint} has no weights: add one of {', '.join(WEIGHT_FILES)}")


def read_weight_map(index: Path) -> dict[str, str]:
    """Return the shard of each tensor that an index lists.

    Raises:
        FileError: The index is damaged, or points outside its directory.
    """
    try:
        weight_map = read_object(index).get("weight_map")
        reject_byte_order_mark(index)
    except FileError as fault:
        raise FileError(f"{index} is not an index of shards: {fault}") from None
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise FileError(f"{index} is not an index of shards (weight_map is missing): copy or download it again")
    for file in set(weight_map.values()):
        if Path(file).name != file:
            raise FileError(f"{index} points outside its directory ({file}): move the shards next to it")
    return weight_map


def is_published_int4(headers: Headers) -> bool:
    """Return whether a file is in the 4-bit format in which Baichuan 2 was published."""
    return any(name.endswith(PUBLISHED_INT4_STATE) and isinstance(one, StoredObject) for name, one in headers.items())


def published_int4_message(file: Path) -> str:
    """Return the message for an attempt to load a checkpoint in the published 4-bit format."""
    return (
        f"{file} is in the published 4-bit format, which is no longer supported: "
        'convert it with the target "safetensors", or use the unquantized checkpoint'
    )


def other_object_message(file: Path, name: str, *, is_mapping: bool) -> str:
    """Return the message for an object in a `.bin` file that is not a tensor."""
    if is_mapping:
        return f"{file} has its tensors inside {name!r}, as training scripts write them: save only that object"
    return f"{file} contains {name}, which is not a tensor: copy or download the checkpoint again"


class WeightHeaders:
    """The headers of all tensors in a checkpoint.

    Attributes:
        checkpoint: The checkpoint directory.
        is_published_int4: Whether the checkpoint is in the 4-bit format in which Baichuan 2 was published.

    Raises:
        FileError: A file is missing, damaged or lacks a tensor that the index lists.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        source = find_weights(checkpoint)
        weight_map = read_weight_map(source) if source.suffix == ".json" else None
        files = sorted({source} if weight_map is None else {checkpoint / file for file in weight_map.values()})
        by_file = {file: read_headers(file) for file in files}
        for name, shard in (weight_map or {}).items():
            if name not in by_file[checkpoint / shard]:
                raise FileError(
                    f"{checkpoint / shard} lacks the tensor {name} that the index lists: "
                    "copy or download this shard again"
                )
        self._headers = {name: stored for headers in by_file.values() for name, stored in headers.items()}
        self._files = {name: file for file, headers in by_file.items() for name in headers}
        self.is_published_int4 = is_published_int4(self._headers)
        if not self.is_published_int4:
            for name, stored in self._headers.items():
                if isinstance(stored, StoredObject):
                    raise FileError(
                        other_object_message(self._files[name], name, is_mapping=isinstance(stored.value, Mapping))
                    )

    @property
    def names(self) -> list[str]:
        """The names of all tensors, file by file."""
        return [name for name in self._headers if not DERIVED.search(name)]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._tensor(name).shape

    def is_float(self, name: str) -> bool:
        """Whether a tensor contains floats."""
        return self._tensor(name).is_float

    def dtype(self, name: str) -> str:
        """Return the dtype of a tensor, as its file spells it."""
        return self._tensor(name).dtype

    def file(self, name: str) -> Path:
        """Return the path of the file that contains a tensor."""
        return self._files[name]

    def _tensor(self, name: str) -> Header:
        stored = self._headers[name]
        if isinstance(stored, StoredObject):
            raise FileError(f"{name} in {self.checkpoint} is not a tensor: copy or download the checkpoint again")
        return stored
