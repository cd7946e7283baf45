"""Compares the tensors of a checkpoint with its configuration."""

import checkpoint_files
from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import CheckpointError
from checkpoint_files.layout import EMBEDDING, HEAD

from .file_errors import translate_file_errors
from .reader import TensorReader


def check_tensors(reader: TensorReader, config: BaichuanConfig) -> None:
    """Check for missing, unknown and wrongly shaped tensors before anything is loaded.

    Raises:
        CheckpointError: A tensor is missing, unknown or wrongly shaped; the message names the tensor and the remedy.
        UnsupportedError: The checkpoint was quantized by GPTQ or AWQ.
    """
    with translate_file_errors():
        checkpoint_files.check_tensors(reader, config, getattr(config, "quantization_config", None))
    if config.tie_word_embeddings and HEAD in reader.names and not reader.read(HEAD).equal(reader.read(EMBEDDING)):
        raise CheckpointError(
            f"{reader.checkpoint} has an lm_head.weight that differs from the embedding, but tie_word_embeddings in "
            "config.json is true: set it to false to use the stored head, or remove the tensor"
        )


def is_quantized(config: BaichuanConfig) -> bool:
    """Return whether a configuration belongs to a quantized checkpoint."""
    return getattr(config, "quantization_config", None) is not None
