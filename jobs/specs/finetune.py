"""Spec of a finetune job, which fine-tunes a checkpoint on conversations or text."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from footprint import Footprint, TrainingSettings, TrainingStrategy, estimate_rank_footprint
from jobs.specs.fields import FileId, Seed, WeightedFile
from jobs.specs.job_spec import ModelInputSpec, ModelOutputSpec
from jobs.specs.model_properties import ModelProperties
from jobs.specs.published_finetuning import translate_published_names
from jobs.specs.resources import Resources
from jobs.specs.suitability import ChosenModel, Incompatibility

Strategy = Literal["auto", "single", "ddp", "fsdp2", "zero2", "zero3", "zero3-offload"]
CANDIDATE_DEVICE_COUNTS = (2, 4, 8, 16, 32, 64)  # device counts to try if the job does not specify one
SHARDING_STAGE = 3  # the first ZeRO stage that shards the weights
LinearLayerName = Literal["W_pack", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
Tracker = Annotated[str, StringConstraints(pattern="^(wandb|mlflow)$")]

MAX_TRAINING_FILES = 32


class FinetuneSpec(ModelInputSpec, ModelOutputSpec):
    """A job that trains a whole model or a LoRA adapter; fields may also use the names of Baichuan2's fine-tune.py."""

    exclusive: ClassVar[bool] = True
    can_pause: ClassVar[bool] = True
    max_devices: ClassVar[int] = 64
    max_nodes: ClassVar[int] = 256

    kind: Literal["finetune"]
    training_file: FileId | None = Field(
        None,
        description="Examples in the format of Baichuan2's fine-tuning, ShareGPT, OpenAI chat or Alpaca, or plain "
        "text; required unless training_files is given",
    )
    training_files: list[WeightedFile] | None = Field(
        None,
        min_length=1,
        max_length=MAX_TRAINING_FILES,
        description="Several training files with weights, instead of training_file",
    )
    validation_file: FileId | None = Field(
        None, description="Examples to evaluate on; the weights with the lowest loss on them are the result"
    )
    validation_split: float = Field(
        0.0, ge=0, lt=1, description="Fraction of the training examples to evaluate on, instead of validation_file"
    )
    preset: Literal["baichuan2-published", "recommended"] | None = Field(
        None, description="Preset values for the fields that are not given"
    )
    method: Literal["full", "lora"] = "lora"
    epochs: float = Field(3, gt=0, le=1000)
    max_steps: int | None = Field(None, ge=1, le=100_000_000, description="Number of steps after which training ends")
    learning_rate: float = Field(2e-5, gt=0, le=1)
    batch_size: int = Field(8, ge=1, le=1024, description="Number of examples per step and device")
    gradient_accumulation_steps: int = Field(1, ge=1, le=1024)
    max_length: int = Field(512, ge=8, le=32_768, description="Number of tokens after which an example is cut")
    packing: bool = Field(
        default=True, description="Fill rows with several short examples, which cannot attend to each other"
    )
    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    warmup_steps: int | None = Field(None, ge=0, le=100_000_000)
    scheduler: Literal[
        "constant",
        "constant_with_warmup",
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "inverse_sqrt",
    ] = "constant"
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"] = Field(
        "adamw", description="8-bit and paged optimizers need a GPU"
    )
    weight_decay: float = Field(1e-4, ge=0, le=1)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, ge=0, le=1)
    max_grad_norm: float = Field(1.0, ge=0, le=1e6, description="0 disables clipping")
    neftune_noise_alpha: float | None = Field(None, ge=0, le=1000, description="Strength of the noise on embeddings")
    lora_rank: int = Field(8, ge=1, le=512)
    lora_alpha: int = Field(32, ge=1, le=1024)
    lora_dropout: float = Field(0.1, ge=0, lt=1)
    lora_target_modules: list[LinearLayerName] = Field(["W_pack"], min_length=1, max_length=6)
    use_rslora: bool = False
    use_dora: bool = False
    gradient_checkpointing: bool = False
    logging_steps: int = Field(1, ge=1, le=1_000_000)
    eval_steps: int | None = Field(
        None, ge=1, le=1_000_000, description="Number of steps between evaluations; by default, one epoch"
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, le=1000, description="Number of evaluations without a lower loss after which training ends"
    )
    save_strategy: Literal["steps", "epoch"] = "steps"
    save_steps: int = Field(200, ge=1, le=1_000_000, description="Number of steps between resume points")
    save_total_limit: int = Field(2, ge=1, le=100, description="Maximum number of resume points to keep")
    seed: Seed = 42
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="Dtype of the computation")
    tf32: bool = Field(default=False, description="Allow TF32 on GPUs that support it")
    report_to: list[Tracker] = Field(
        default_factory=list,
        max_length=2,
        description="Report to wandb or mlflow too, if the worker has the package; records always become artifacts",
    )
    strategy: Strategy = Field(
        "auto", description="How several devices share the work; auto chooses the fastest strategy that fits"
    )
    deepspeed: dict[str, Any] | None = Field(
        None, description='A DeepSpeed configuration, instead of a strategy; presets such as "zero3" are strategies'
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_published_names(cls, body: Any) -> Any:
        return translate_published_names(body) if isinstance(body, dict) else body

    @model_validator(mode="after")
    def _require_files(self) -> Self:
        """Reject data that is missing or given twice."""
        if (self.training_file is None) == (self.training_files is None):
            raise ValueError("set exactly one of training_file and training_files")
        ids = [each.file for each in self.training_files or ()]
        if repeated := [file for file in ids if ids.count(file) > 1]:
            raise ValueError(f"training_files has {repeated[0]} twice; list it once, with a higher weight")
        if self.validation_file is not None and self.validation_split:
            raise ValueError("validation_file and validation_split are both given; leave one out")
        return self

    @model_validator(mode="after")
    def _reject_ineffective_options(self) -> Self:
        """Reject combinations of options in which one would have no effect."""
        if self.scheduler == "constant" and (self.warmup_ratio or self.warmup_steps):
            raise ValueError("scheduler 'constant' has no warm-up: use 'constant_with_warmup', or remove warmup_*")
        if self.warmup_ratio and self.warmup_steps:
            raise ValueError("warmup_ratio and warmup_steps are both given; leave one out")
        if self.method != "lora" and (self.use_dora or self.use_rslora):
            raise ValueError("use_dora and use_rslora require method 'lora'")
        evaluates = self.validation_file is not None or self.validation_split
        if not evaluates and (self.eval_steps is not None or self.early_stopping_patience is not None):
            raise ValueError("eval_steps and early_stopping_patience need a validation_file or validation_split")
        return self

    @model_validator(mode="after")
    def _check_strategy(self) -> Self:
        """Reject a strategy that does not suit the devices or the method."""
        if self.deepspeed is not None and self.strategy != "auto":
            raise ValueError("deepspeed and strategy are both given; leave one out")
        if self.strategy == "single" and self.rank_count > 1:
            raise ValueError(f"strategy 'single' uses one device, but resources request {self.rank_count}; use 'auto'")
        if self.strategy in ("ddp", "fsdp2") and self.rank_count == 1:
            raise ValueError(f"strategy {self.strategy!r} needs several devices; set resources.devices or .nodes")
        if self.rank_count > 1 and self.resources is not None and self.resources.devices == 0:
            raise ValueError("resources.devices is 0, but a job on several nodes needs at least one device per node")
        if not self._may_shard and self._concrete_strategy not in ("single", "ddp"):
            raise ValueError("use_dora and optimizers other than adamw need unsharded weights; use the strategy 'ddp'")
        return self

    def list_file_references(self) -> dict[str, str]:
        """See `JobSpec.list_file_references`."""
        files = {"training_file": self.training_file, "validation_file": self.validation_file}
        files |= {f"training_files.{number}": each.file for number, each in enumerate(self.training_files or ())}
        return {field: file for field, file in files.items() if file is not None}

    @property
    def packages(self) -> Sequence[str]:
        """See `JobSpec.packages`: a tracker has the same name as its package."""
        return self.report_to

    @property
    def rank_count(self) -> int:
        """The number of processes that train together, one per device."""
        asked = self.resources
        return 1 if asked is None else asked.nodes * max(1, asked.devices or 1)

    @property
    def _may_shard(self) -> bool:
        """Whether the weights and the optimizer state can be divided among the devices."""
        return not self.use_dora and self.optimizer == "adamw"

    def find_incompatibility(self, model: ChosenModel) -> Incompatibility | None:
        """See `ModelInputSpec.find_incompatibility`."""
        if self.method == "full" and model.is_quantized:
            return Incompatibility(
                "method", "is quantized, so it cannot be trained in full; use lora, or another checkpoint"
            )
        if model.is_quantized and (self.deepspeed is not None or self.strategy not in ("auto", "single", "ddp")):
            param = "strategy" if self.deepspeed is None else "deepspeed"
            return Incompatibility(
                param, "is quantized, and quantized weights cannot be sharded; use the strategy 'ddp'"
            )
        return None

    def estimate_footprints(self, model: ModelProperties, *, on_gpu: bool = True) -> Sequence[Footprint]:
        """See `JobSpec.estimate_footprints`; "auto" computes in bfloat16 only on a GPU."""
        training = TrainingSettings(
            method=self.method,
            batch=self.batch_size,
            tokens=min(self.max_length, model.shape.context_length),
            lora_rank=self.lora_rank,
            lora_targets=tuple(self.lora_target_modules),
            gradient_checkpointing=self.gradient_checkpointing,
            accumulation=self.gradient_accumulation_steps,
            on_gpu=on_gpu,
        )
        automatic: Literal["float32", "bfloat16"] = "bfloat16" if on_gpu else "float32"
        dtype = automatic if self.dtype == "auto" else self.dtype
        precision = replace(model.precision, dtype=dtype)
        needs = estimate_rank_footprint(model.shape, precision, training, self._concrete_strategy, self.rank_count)
        on_node = needs.host * (self.rank_count // (self.resources.nodes if self.resources else 1))
        return [needs.device, *([Footprint(on_node, least=on_node, place="host")] if on_node else [])]

    def list_alternatives(self, *, on_gpu: bool, sharded: bool) -> Sequence[Self]:
        """See `JobSpec.list_alternatives`: one device, replicas, sharded weights, then weights in host memory."""
        if self.strategy != "auto" or self.deepspeed is not None:
            return [self]
        replicas: TrainingStrategy = "single" if self.rank_count == 1 else "ddp"
        chosen = [self._with_strategy(replicas)]
        if not sharded or not self._may_shard:
            return chosen
        if self.resources is None or self.resources.devices is None:
            chosen += [self._with_strategy("fsdp2", devices) for devices in CANDIDATE_DEVICE_COUNTS]
        elif self.rank_count > 1:
            chosen.append(self._with_strategy("fsdp2"))
        return [*chosen, self._with_strategy("zero3-offload")] if on_gpu else chosen

    def _with_strategy(self, strategy: TrainingStrategy, devices: int | None = None) -> Self:
        asked = self.resources or Resources()
        resources = asked if devices is None else asked.model_copy(update={"devices": devices})
        return self.model_copy(update={"strategy": strategy, "resources": resources})

    @property
    def _concrete_strategy(self) -> TrainingStrategy:
        """The strategy to estimate memory for; for "auto", the fastest one, which needs the most memory."""
        if self.deepspeed is not None:
            zero = self.deepspeed.get("zero_optimization", {})
            if zero.get("stage", 0) < SHARDING_STAGE:
                return "zero2"
            offload = zero.get("offload_param") or {}
            return "zero3-offload" if offload.get("device", "none") != "none" else "zero3"
        if self.strategy == "auto":
            return "single" if self.rank_count == 1 else "ddp"
        return self.strategy
