"""Which weight files a checkpoint consists of, and the headers of all of them."""

import re
from collections.abc import Mapping
from pathlib import Path

from .errors import FileError, UnsupportedFileError
from .headers import Header, Headers, StoredObject, read_headers
from .json_files import read_object, refuse_byte_order_mark

SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# In the order in which transformers looks for them.
WEIGHT_FILES = (*SAFETENSORS, *PICKLED)
SAFETENSORS_SHARDS, PICKLED_SHARDS = "model-*-of-*.safetensors", "pytorch_model-*-of-*.bin"
# Settings that AutoGPTQ and AutoAWQ write next to weights with names of their own.
GPTQ_SETTINGS = ("quantize_config.json", "quant_config.json")
# Baichuan 1 7B stores these; they follow from the configuration.
DERIVED = re.compile(r"rotary_emb\.inv_freq$")
PUBLISHED_INT4_STATE = ".weight.quant_state"


def find_weights(checkpoint: Path) -> Path:
    """Return the file of weights, or the index of shards, that transformers would load.

    Raises:
        FileError: There is none.
        UnsupportedFileError: The weights are those of AutoGPTQ or AutoAWQ.
    """
    for settings in GPTQ_SETTINGS:
        if (checkpoint / settings).is_file():
            raise UnsupportedFileError(
                f"{checkpoint} was quantized by AutoGPTQ or AutoAWQ, as {settings} in it shows: "
                "use an unquantized or bitsandbytes checkpoint (if its weights are plain, remove that file)"
            )
    for name in WEIGHT_FILES:
        if (checkpoint / name).is_file():
            return checkpoint / name
    if next(checkpoint.glob("*.gguf"), None):
        raise FileError(f"{checkpoint} holds a GGUF file, for llama.cpp: name the checkpoint it was made from")
    for shards, index in ((SAFETENSORS_SHARDS, SAFETENSORS[1]), (PICKLED_SHARDS, PICKLED[1])):
        if next(checkpoint.glob(shards), None):
            raise FileError(
                f"{checkpoint} holds no weights that can be found: copy or download {index}, which names the shards"
            )
    if next(checkpoint.glob("global_step*"), None):
        raise FileError(
            f"{checkpoint} holds no weights, only the training state of DeepSpeed: run its zero_to_fp32.py, or name a "
            "checkpoint that was saved with stage3_gather_16bit_weights_on_model_save"
        )
    raise FileError(f"{checkpoint} holds no weights: expected one of {', '.join(WEIGHT_FILES)}")


def read_weight_map(index: Path) -> dict[str, str]:
    """Return the shard of each tensor that an index promises.

    Raises:
        FileError: It is damaged, or points outside its directory.
    """
    try:
        weight_map = read_object(index).get("weight_map")
        refuse_byte_order_mark(index)
    except FileError as fault:
        raise FileError(f"{index} is no index of shards: {fault}") from None
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise FileError(f"{index} is no index of shards (weight_map is missing): copy or download it again")
    for file in set(weight_map.values()):
        if Path(file).name != file:
            raise FileError(f"{index} points outside its directory ({file}): shards must lie beside it")
    return weight_map


def is_published_int4(headers: Headers) -> bool:
    """Return whether a file has the 4-bit form that Baichuan 2 was published in."""
    return any(name.endswith(PUBLISHED_INT4_STATE) and isinstance(one, StoredObject) for name, one in headers.items())


def published_int4_message(file: Path) -> str:
    """Return what to tell somebody who loads a checkpoint of that form."""
    return (
        f"{file} is in the published 4-bit form, an old 4-bit checkpoint that nothing loads any more: "
        'convert it to the target "safetensors", or use the unquantized checkpoint'
    )


def strange_object(file: Path, name: str, *, is_mapping: bool) -> str:
    """Return the message for something other than a tensor in a `.bin` file."""
    if is_mapping:
        return f"{file} keeps its tensors in {name!r}, as training scripts do: save that object alone"
    return f"{file} holds {name}, which is no tensor: copy or download the checkpoint again"


class WeightHeaders:
    """Headers of all tensors of a checkpoint.

    Attributes:
        checkpoint: The directory.
        is_published_int4: Whether it has the 4-bit form that Baichuan 2 was published in.

    Raises:
        FileError: A file is missing, damaged or lacks a promised tensor.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        source = find_weights(checkpoint)
        promised = read_weight_map(source) if source.suffix == ".json" else None
        files = sorted({source} if promised is None else {checkpoint / file for file in promised.values()})
        by_file = {file: read_headers(file) for file in files}
        for name, shard in (promised or {}).items():
            if name not in by_file[checkpoint / shard]:
                raise FileError(
                    f"{checkpoint / shard} lacks the tensor {name} that the index promises: "
                    "copy or download this shard again"
                )
        self._headers = {name: stored for headers in by_file.values() for name, stored in headers.items()}
        self._files = {name: file for file, headers in by_file.items() for name in headers}
        self.is_published_int4 = is_published_int4(self._headers)
        if not self.is_published_int4:
            for name, stored in self._headers.items():
                if isinstance(stored, StoredObject):
                    raise FileError(
                        strange_object(self._files[name], name, is_mapping=isinstance(stored.value, Mapping))
                    )

    @property
    def names(self) -> list[str]:
        """Names of all tensors, file by file."""
        return [name for name in self._headers if not DERIVED.search(name)]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._tensor(name).shape

    def is_float(self, name: str) -> bool:
        """Whether a tensor holds floats."""
        return self._tensor(name).is_float

    def dtype(self, name: str) -> str:
        """Dtype of a tensor, as its file spells it."""
        return self._tensor(name).dtype

    def file(self, name: str) -> Path:
        """File with a tensor."""
        return self._files[name]

    def _tensor(self, name: str) -> Header:
        stored = self._headers[name]
        if isinstance(stored, StoredObject):
            raise FileError(f"{name} in {self.checkpoint} is no tensor: copy or download the checkpoint again")
        return stored
