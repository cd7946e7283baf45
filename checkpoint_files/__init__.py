"""Reads and checks the files of a model directory without torch, at registration and before a job."""

from .adapter_layers import (
    AdapterLayers,
    assign_to_layers,
    find_adapter_weights,
    is_saved,
    reject_integers,
    require_selected_layers,
    select_layers,
)
from .adapter_settings import AdapterSettings
from .chat_templates import MORE_TEMPLATES
from .config import bitsandbytes_settings, clean_fields, clean_file_fields, read_config
from .directory import (
    check_adapter_files,
    check_checkpoint_files,
    check_directory,
    read_settled_config,
)
from .errors import FileError, UnsupportedFileError
from .family import (
    BAICHUAN1_VOCABULARY_SIZE,
    BAICHUAN2_VOCABULARY_SIZE,
    PositionEmbedding,
    infer_norm_head,
    infer_position_embedding,
    require_norm_head,
    unknown_head_message,
)
from .generation_values import check_end_tokens, read_generation_config
from .json_files import as_whole_numbers, read_object
from .tensors import check_tensors, stored_endings
from .tokenizer_files import check_tokenizer_files, missing_row_message
from .weights import find_weights, read_weight_map

__all__ = [
    "BAICHUAN1_VOCABULARY_SIZE",
    "BAICHUAN2_VOCABULARY_SIZE",
    "MORE_TEMPLATES",
    "AdapterLayers",
    "AdapterSettings",
    "FileError",
    "PositionEmbedding",
    "UnsupportedFileError",
    "as_whole_numbers",
    "assign_to_layers",
    "bitsandbytes_settings",
    "check_adapter_files",
    "check_checkpoint_files",
    "check_directory",
    "check_end_tokens",
    "check_tensors",
    "check_tokenizer_files",
    "clean_fields",
    "clean_file_fields",
    "find_adapter_weights",
    "find_weights",
    "infer_norm_head",
    "infer_position_embedding",
    "is_saved",
    "missing_row_message",
    "read_config",
    "read_generation_config",
    "read_object",
    "read_settled_config",
    "read_weight_map",
    "reject_integers",
    "require_norm_head",
    "require_selected_layers",
    "select_layers",
    "stored_endings",
    "unknown_head_message",
]
