"""Fine-tuning on conversations, in full or by an adapter."""

from baichuan_core.finetuning.data import encode_training_data, read_conversations
from baichuan_core.finetuning.finetune import finetune
from baichuan_core.finetuning.options import FinetuningOptions, FinetuningReport
from baichuan_core.finetuning.training import latest_checkpoint

__all__ = [
    "FinetuningOptions",
    "FinetuningReport",
    "encode_training_data",
    "finetune",
    "latest_checkpoint",
    "read_conversations",
]
