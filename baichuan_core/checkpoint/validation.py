"""Compares what a checkpoint holds with what its configuration asks for."""

import checkpoint_files
from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import CheckpointError
from checkpoint_files.layout import EMBEDDING, HEAD

from .file_errors import engine_errors
from .reader import TensorReader


def check_tensors(reader: TensorReader, config: BaichuanConfig) -> None:
    """Find missing, unknown and misshapen tensors before anything is loaded.

    Raises:
        CheckpointError: The message names the tensor and what to do.
        UnsupportedError: The tensors are those of GPTQ or AWQ.
    """
    with engine_errors():
        checkpoint_files.check_tensors(reader, config, getattr(config, "quantization_config", None))
    if config.tie_word_embeddings and HEAD in reader.names and not reader.read(HEAD).equal(reader.read(EMBEDDING)):
        raise CheckpointError(
            f"{reader.checkpoint} holds lm_head.weight, which differs from the embedding, but tie_word_embeddings in "
            "config.json is true: set it to false to use the stored head, or remove the tensor"
        )


def is_quantized(config: BaichuanConfig) -> bool:
    """Whether the configuration is that of a quantized checkpoint."""
    return getattr(config, "quantization_config", None) is not None
