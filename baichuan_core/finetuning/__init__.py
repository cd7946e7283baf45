"""Fine-tunes all weights or an adapter on conversations or text."""

from baichuan_core.finetuning.data import encode_training_data, load_training_data
from baichuan_core.finetuning.distributed import Distribution
from baichuan_core.finetuning.finetune import finetune
from baichuan_core.finetuning.formats import read_conversations
from baichuan_core.finetuning.options import FinetuningOptions
from baichuan_core.finetuning.preview import DatasetPreview, preview_dataset
from baichuan_core.finetuning.report import FinetuningReport
from baichuan_core.finetuning.training import find_latest_resume_point

__all__ = [
    "DatasetPreview",
    "Distribution",
    "FinetuningOptions",
    "FinetuningReport",
    "encode_training_data",
    "find_latest_resume_point",
    "finetune",
    "load_training_data",
    "preview_dataset",
    "read_conversations",
]
