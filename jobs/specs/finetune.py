"""Fine-tune a checkpoint on conversations."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field

from footprint import Footprint, Training, finetuning
from jobs.specs.fields import FileId, ModelProducingSpec, Seed
from jobs.specs.known_model import KnownModel


class FinetuneSpec(ModelProducingSpec):
    """Full fine-tuning, or a LoRA adapter on `W_pack`, on data in Baichuan2's published format."""

    kind: Literal["finetune"]
    training_file: FileId
    method: Literal["full", "lora"] = "lora"
    epochs: float = Field(3, gt=0, le=1000)
    learning_rate: float = Field(2e-5, gt=0, le=1)
    batch_size: int = Field(8, ge=1, le=1024, description="Examples a step and device")
    gradient_accumulation_steps: int = Field(1, ge=1, le=1024)
    max_length: int = Field(512, ge=8, le=32_768, description="Tokens after which an example is cut")
    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0, le=1)
    scheduler: Literal["constant", "linear", "cosine"] = "constant"
    lora_rank: int = Field(8, ge=1, le=512)
    lora_alpha: int = Field(32, ge=1, le=1024)
    lora_dropout: float = Field(0.1, ge=0, lt=1)
    gradient_checkpointing: bool = False
    save_steps: int = Field(200, ge=1, le=1_000_000, description="Steps between checkpoints to resume from")
    seed: Seed = 42
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="What is computed in")

    def file_references(self) -> dict[str, str]:
        """See `JobSpec.file_references`."""
        return {"training_file": self.training_file}

    def footprints(self, model: KnownModel, *, on_gpu: bool = True) -> Sequence[Footprint]:
        """See `JobSpec.footprints`; "auto" computes in bfloat16 on a GPU only."""
        training = Training(
            method=self.method,
            batch=self.batch_size,
            tokens=min(self.max_length, model.shape.context_length),
            lora_rank=self.lora_rank,
            gradient_checkpointing=self.gradient_checkpointing,
            accumulation=self.gradient_accumulation_steps,
            on_gpu=on_gpu,
        )
        automatic: Literal["float32", "bfloat16"] = "bfloat16" if on_gpu else "float32"
        dtype = automatic if self.dtype == "auto" else self.dtype
        return [finetuning(model.shape, replace(model.precision, dtype=dtype), training)]
