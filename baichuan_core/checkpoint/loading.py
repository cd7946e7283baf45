"""Loads models and tokenizers from checkpoint directories, with errors that say what to change."""

from pathlib import Path
from typing import Literal

import torch
from transformers.utils.quantization_config import QuantizationConfigMixin

from baichuan_core.errors import CheckpointError, TokenizerError, UnsupportedError
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.tokenizer import BaichuanTokenizer

from .adapters import check_adapter, load_adapter
from .companions import read_config
from .reader import TensorReader
from .validation import check_tensors

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]


def load_model(
    checkpoint: Path | str,
    *,
    dtype: DtypeName = "auto",
    device: str | None = None,
    adapter: Path | str | None = None,
    quantization: QuantizationConfigMixin | None = None,
) -> BaichuanForCausalLM:
    """Load a checkpoint in eval mode, everything checked before the first weight is read.

    Args:
        checkpoint: Directory with `config.json` and safetensors or `.bin` weights; quantized ones need no flag.
        dtype: Dtype of the weights, "auto" for that of the checkpoint.
        device: Where the weights go, e.g. "cpu" or "cuda:0"; the first GPU, or else the CPU, if not given.
        adapter: A LoRA adapter directory that was made for this base; its layers are put into the model.
        quantization: Quantize on the way, e.g. a `BitsAndBytesConfig`.

    Raises:
        CheckpointError: Missing or damaged files, tensors that do not fit the configuration.
        AdapterMismatchError: The adapter was made for another base.
        UnsupportedError: A dtype or a device that does not exist here.
    """
    checkpoint, adapter = Path(checkpoint), None if adapter is None else Path(adapter)
    config = read_config(checkpoint)
    with TensorReader(checkpoint) as reader:
        check_tensors(reader, config)
    if adapter is not None:
        check_adapter(adapter, checkpoint)
    model = BaichuanForCausalLM.from_pretrained(
        checkpoint,
        dtype=_dtype(dtype),
        device_map={"": _device(device)},
        quantization_config=quantization,
        local_files_only=True,
    )
    if not isinstance(model, BaichuanForCausalLM):
        raise CheckpointError(f"{checkpoint} did not load as a Baichuan model")
    if adapter is not None:
        load_adapter(model, adapter)
    return model


def load_tokenizer(checkpoint: Path | str) -> BaichuanTokenizer:
    """The tokenizer of a checkpoint directory.

    Raises:
        TokenizerError: It is missing, cannot be read, or has more pieces than the model has embeddings.
        CheckpointError: `config.json` is missing or damaged.
    """
    checkpoint = Path(checkpoint)
    file = checkpoint / "tokenizer.model"
    if not file.is_file():
        raise TokenizerError(f"{file} is missing: copy tokenizer.model and tokenizer_config.json beside the weights")
    try:
        tokenizer = BaichuanTokenizer.from_pretrained(checkpoint, local_files_only=True)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise TokenizerError(
            f"{file} or tokenizer_config.json beside it cannot be read ({error}): copy or download both again"
        ) from error
    if not isinstance(tokenizer, BaichuanTokenizer):
        raise TokenizerError(f"{checkpoint} holds another kind of tokenizer: use that of the Baichuan family")
    embeddings = read_config(checkpoint).vocab_size
    if len(tokenizer) > embeddings:
        raise TokenizerError(
            f"{file} and added_tokens.json have {len(tokenizer)} pieces and the model {embeddings} embeddings: "
            "use the tokenizer that belongs to these weights"
        )
    return tokenizer


def _dtype(name: str) -> str | torch.dtype:
    if name not in ("auto", "float32", "bfloat16", "float16"):
        raise UnsupportedError(f'dtype {name!r} is not known: use "auto", "float32", "bfloat16" or "float16"')
    if name == "auto":
        return name
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UnsupportedError(f'device {name!r} is not known: use "cpu" or "cuda:0"') from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError('there is no CUDA device here: use "cpu"')
    return device
