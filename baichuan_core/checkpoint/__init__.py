"""Reads, writes, inspects and loads checkpoint directories, and matches adapters to their base models."""

from checkpoint_files.layout import (
    EMBEDDING,
    EMBEDDING_SCALE,
    FINAL_NORM,
    HEAD,
    HEAD_SCALE,
    expected_tensors,
    linear_layers,
)

from .adapters import LoraAdapter, check_adapter
from .base_identity import BaseIdentity, write_base_identity
from .companions import copy_companion_files, read_config
from .inspection import CheckpointSummary, inspect_checkpoint
from .loading import DtypeName, load_model, load_tokenizer
from .model_cache import NATIVE_ENGINE, ModelCache, ModelCacheEntry, ModelSource
from .reader import TensorReader
from .space import require_space
from .staging import make_directory, staged_output
from .validation import check_tensors, is_quantized
from .writer import TensorWriter, tensor_writer

__all__ = [
    "EMBEDDING",
    "EMBEDDING_SCALE",
    "FINAL_NORM",
    "HEAD",
    "HEAD_SCALE",
    "NATIVE_ENGINE",
    "BaseIdentity",
    "CheckpointSummary",
    "DtypeName",
    "LoraAdapter",
    "ModelCache",
    "ModelCacheEntry",
    "ModelSource",
    "TensorReader",
    "TensorWriter",
    "check_adapter",
    "check_tensors",
    "copy_companion_files",
    "expected_tensors",
    "inspect_checkpoint",
    "is_quantized",
    "linear_layers",
    "load_model",
    "load_tokenizer",
    "make_directory",
    "read_config",
    "require_space",
    "staged_output",
    "tensor_writer",
    "write_base_identity",
]
