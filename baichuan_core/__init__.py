"""The Baichuan model family and its operations.

Importing this package registers the classes with transformers' `AutoConfig`, `AutoModelForCausalLM` and
`AutoTokenizer` for `model_type: baichuan`; `trust_remote_code` is never needed and never used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.tokenization_auto import REGISTERED_TOKENIZER_CLASSES

from . import quiet as quiet  # before anything imports bitsandbytes
from .checkpoint import CheckpointSummary, inspect_checkpoint, load_model, load_tokenizer
from .config import BaichuanConfig
from .conversion import ConversionReport, ConversionTarget, convert
from .errors import (
    AdapterMismatchError,
    BaichuanError,
    CheckpointError,
    DatasetError,
    InsufficientMemoryError,
    InsufficientSpaceError,
    MemoryOccupiedError,
    PromptError,
    TokenizerError,
    TrainingDivergedError,
    UnsupportedError,
)
from .generation import (
    GenerationOptions,
    GenerationReport,
    GenerationRequest,
    TextGenerator,
    generate,
    read_requests,
)
from .model import BaichuanForCausalLM, BaichuanModel
from .progress import Progress, ProgressCallback, ignore_progress
from .quantization import QuantizationOptions, QuantizationReport, quantize
from .tokenizer import BaichuanTokenizer

if TYPE_CHECKING:
    from .finetuning import FinetuningOptions, FinetuningReport, finetune, latest_checkpoint, preview_dataset

AutoConfig.register("baichuan", BaichuanConfig, exist_ok=True)
AutoModel.register(BaichuanConfig, BaichuanModel, exist_ok=True)
AutoModelForCausalLM.register(BaichuanConfig, BaichuanForCausalLM, exist_ok=True)
AutoTokenizer.register(BaichuanConfig, slow_tokenizer_class=BaichuanTokenizer, exist_ok=True)
# The tokenizer_config.json of Baichuan 1 7B writes the name so.
REGISTERED_TOKENIZER_CLASSES["BaiChuanTokenizer"] = BaichuanTokenizer

__all__ = [
    "AdapterMismatchError",
    "BaichuanConfig",
    "BaichuanError",
    "BaichuanForCausalLM",
    "BaichuanModel",
    "BaichuanTokenizer",
    "CheckpointError",
    "CheckpointSummary",
    "ConversionReport",
    "ConversionTarget",
    "DatasetError",
    "FinetuningOptions",
    "FinetuningReport",
    "GenerationOptions",
    "GenerationReport",
    "GenerationRequest",
    "InsufficientMemoryError",
    "InsufficientSpaceError",
    "MemoryOccupiedError",
    "Progress",
    "ProgressCallback",
    "PromptError",
    "QuantizationOptions",
    "QuantizationReport",
    "TextGenerator",
    "TokenizerError",
    "TrainingDivergedError",
    "UnsupportedError",
    "convert",
    "finetune",
    "generate",
    "ignore_progress",
    "inspect_checkpoint",
    "latest_checkpoint",
    "load_model",
    "load_tokenizer",
    "preview_dataset",
    "quantize",
    "read_requests",
]


def __getattr__(name: str) -> Any:
    """What only fine-tuning needs, imported when it is asked for: transformers' trainer takes two seconds."""
    if name in ("FinetuningOptions", "FinetuningReport", "finetune", "latest_checkpoint", "preview_dataset"):
        return getattr(import_module(".finetuning", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
