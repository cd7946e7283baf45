"""The Baichuan model family and operations on its models.

After importing this package, transformers' `AutoConfig`, `AutoModelForCausalLM` and `AutoTokenizer` support
`model_type: baichuan`. `trust_remote_code` is never needed; even if it is set, no code from a repository is executed.
Importing the package loads neither torch nor transformers: each name is imported when it is first used
(docs/decisions/0017).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import quiet as quiet  # must precede any import of bitsandbytes
from .deferred import register_when_needed

if TYPE_CHECKING:
    from .checkpoint import CheckpointSummary, inspect_checkpoint, load_model, load_tokenizer
    from .config import BaichuanConfig
    from .conversion import ConversionReport, ConversionTarget, convert
    from .errors import (
        AdapterMismatchError,
        BaichuanError,
        CheckpointError,
        DatasetError,
        HubError,
        HubUnreachableError,
        InsufficientMemoryError,
        InsufficientSpaceError,
        MemoryOccupiedError,
        PromptError,
        RankFailedError,
        TokenizerError,
        TrainingDivergedError,
        UnsupportedError,
    )
    from .finetuning import (
        Distribution,
        FinetuningOptions,
        FinetuningReport,
        find_latest_resume_point,
        finetune,
        preview_dataset,
    )
    from .generation import (
        GenerationOptions,
        GenerationReport,
        GenerationRequest,
        TextGenerator,
        generate,
        read_requests,
    )
    from .hub import Hub, PullReport, pull
    from .model import BaichuanForCausalLM, BaichuanModel
    from .progress import Progress, ProgressCallback, ignore_progress
    from .quantization import QuantizationOptions, QuantizationReport, quantize
    from .tokenizer import BaichuanTokenizer

# Public names by module; must match the imports above, which only type checkers see.
_NAMES_BY_MODULE = {
    "checkpoint": ("CheckpointSummary", "inspect_checkpoint", "load_model", "load_tokenizer"),
    "config": ("BaichuanConfig",),
    "conversion": ("ConversionReport", "ConversionTarget", "convert"),
    "errors": (
        "AdapterMismatchError",
        "BaichuanError",
        "CheckpointError",
        "DatasetError",
        "HubError",
        "HubUnreachableError",
        "InsufficientMemoryError",
        "InsufficientSpaceError",
        "MemoryOccupiedError",
        "PromptError",
        "RankFailedError",
        "TokenizerError",
        "TrainingDivergedError",
        "UnsupportedError",
    ),
    "finetuning": (
        "Distribution",
        "FinetuningOptions",
        "FinetuningReport",
        "finetune",
        "find_latest_resume_point",
        "preview_dataset",
    ),
    "generation": (
        "GenerationOptions",
        "GenerationReport",
        "GenerationRequest",
        "TextGenerator",
        "generate",
        "read_requests",
    ),
    "hub": ("Hub", "PullReport", "pull"),
    "model": ("BaichuanForCausalLM", "BaichuanModel"),
    "progress": ("Progress", "ProgressCallback", "ignore_progress"),
    "quantization": ("QuantizationOptions", "QuantizationReport", "quantize"),
    "tokenizer": ("BaichuanTokenizer",),
}
_MODULE_BY_NAME = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}

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
    "Distribution",
    "FinetuningOptions",
    "FinetuningReport",
    "GenerationOptions",
    "GenerationReport",
    "GenerationRequest",
    "Hub",
    "HubError",
    "HubUnreachableError",
    "InsufficientMemoryError",
    "InsufficientSpaceError",
    "MemoryOccupiedError",
    "Progress",
    "ProgressCallback",
    "PromptError",
    "PullReport",
    "QuantizationOptions",
    "QuantizationReport",
    "RankFailedError",
    "TextGenerator",
    "TokenizerError",
    "TrainingDivergedError",
    "UnsupportedError",
    "convert",
    "find_latest_resume_point",
    "finetune",
    "generate",
    "ignore_progress",
    "inspect_checkpoint",
    "load_model",
    "load_tokenizer",
    "preview_dataset",
    "pull",
    "quantize",
    "read_requests",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first used."""
    if name not in _MODULE_BY_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_MODULE_BY_NAME[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_when_needed()
