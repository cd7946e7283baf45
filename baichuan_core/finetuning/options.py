"""Options of a fine-tuning run."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

from baichuan_core.finetuning.trackers import TRACKERS

FinetuningMethod = Literal["full", "lora"]
LearningRateScheduler = Literal[
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
]
TrainingDtype = Literal["float32", "bfloat16"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"]
SaveStrategy = Literal["steps", "epoch"]

SCHEDULERS_WITHOUT_WARMUP = ("constant",)
OPTION_CHOICES = {
    "method": get_args(FinetuningMethod),
    "lr_scheduler": get_args(LearningRateScheduler),
    "dtype": (*get_args(TrainingDtype), None),
    "optimizer": get_args(Optimizer),
    "save_strategy": get_args(SaveStrategy),
}
MIN_OPTION_VALUES = {
    "epochs": 0,
    "max_steps": 1,
    "learning_rate": 0,
    "batch_size": 1,
    "gradient_accumulation_steps": 1,
    "max_length": 2,
    "warmup_ratio": 0,
    "warmup_steps": 0,
    "weight_decay": 0,
    "adam_beta1": 0,
    "adam_beta2": 0,
    "adam_epsilon": 0,
    "max_grad_norm": 0,
    "neftune_noise_alpha": 0,
    "lora_rank": 1,
    "lora_alpha": 1,
    "lora_dropout": 0,
    "logging_steps": 1,
    "save_steps": 1,
    "save_total_limit": 1,
    "eval_steps": 1,
    "validation_split": 0,
    "early_stopping_patience": 1,
}
FRACTION_OPTIONS = ("warmup_ratio", "lora_dropout", "adam_beta1", "adam_beta2", "validation_split")
BAICHUAN_LINEAR_LAYERS = ("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")

# Settings from Baichuan2's README and fine-tune.py, and our recommendation for a first LoRA run.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "baichuan2-published": {
        "epochs": 4,
        "batch_size": 16,
        "max_length": 512,
        "learning_rate": 2e-5,
        "lr_scheduler": "constant",
        "adam_beta1": 0.9,
        "adam_beta2": 0.98,
        "adam_epsilon": 1e-8,
        "max_grad_norm": 1.0,
        "weight_decay": 1e-4,
        "warmup_ratio": 0.0,
        "gradient_checkpointing": True,
        "save_strategy": "epoch",
        "lora_rank": 1,
        "lora_alpha": 32,
        "lora_dropout": 0.1,
        "lora_target_modules": ("W_pack",),
    },
    "recommended": {
        "method": "lora",
        "epochs": 3,
        "learning_rate": 2e-4,
        "lr_scheduler": "cosine",
        "warmup_ratio": 0.03,
        "weight_decay": 0.0,
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "lora_target_modules": ("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj"),
        "gradient_checkpointing": True,
    },
}


@dataclass(frozen=True, slots=True)
class FinetuningOptions:
    """Training options. The defaults are those of `finetune` jobs; most come from Baichuan2's README.

    Attributes:
        method: `full` trains all weights, `lora` an adapter (Hu et al. 2021); QLoRA is `lora` on a 4-bit base.
        epochs: Number of passes over the data; may be a fraction.
        max_steps: Number of steps, instead of `epochs`.
        learning_rate: Maximum learning rate.
        batch_size: Number of examples per batch and device.
        gradient_accumulation_steps: Number of batches per optimizer step.
        max_length: Maximum length of an example in tokens, longer ones are truncated; None means the model's context
            length.
        warmup_ratio: Fraction of the steps in which the learning rate increases; must be below 1.
        warmup_steps: Number of steps in which the learning rate increases, instead of `warmup_ratio`.
        lr_scheduler: Schedule of the learning rate after the warm-up.
        optimizer: `adamw` (fused), or the 8-bit and paged optimizers of bitsandbytes, which require CUDA.
        weight_decay, adam_beta1, adam_beta2, adam_epsilon: Parameters of AdamW.
        max_grad_norm: Maximum gradient norm, to which larger gradients are clipped; 0 disables clipping.
        neftune_noise_alpha: Scale of noise on embeddings (Jain et al. 2023, arXiv 2310.05914); None disables it.
        lora_rank, lora_alpha, lora_dropout: Parameters of the adapter; Baichuan2's script uses 1, 32 and 0.1.
        lora_target_modules: Linear layers to adapt, by the last part of their name.
        use_rslora: Scale the adapter by alpha / sqrt(rank) (arXiv 2312.03732).
        use_dora: Train magnitude and direction of the weights separately (arXiv 2402.09353).
        seed: Seed for the order of the examples, dropout and the initial weights of the adapter.
        logging_steps: Number of steps between two reports.
        save_strategy: `steps` writes a resume point every `save_steps` steps, `epoch` after each epoch.
        save_steps: Number of steps between two resume points.
        save_total_limit: Number of resume points to keep, in addition to the best one.
        eval_steps: Number of steps between two evaluations; None evaluates after each epoch. Requires validation data.
        validation_split: Fraction of the examples to use for evaluation instead of training.
        early_stopping_patience: Number of evaluations without a lower loss after which training stops; None disables
            early stopping.
        gradient_checkpointing: Save memory by recomputing activations in the backward pass.
        packing: Pack several short examples into one row. They cannot attend to each other, so the result is the same
            as without packing.
        dtype: `float32`, or `bfloat16` with mixed precision; None means `bfloat16` on CUDA and `float32` elsewhere.
        tf32: Allow TF32 for float32 matrix products on GPUs that support it; has no effect elsewhere.
        report_to: Experiment trackers to report to, `wandb` and `mlflow`; both are optional packages.
        device: `cpu` or `cuda`; None uses CUDA if it is available.
    """

    method: FinetuningMethod = "lora"
    epochs: float = 3.0
    max_steps: int | None = None
    learning_rate: float = 2e-5
    batch_size: int = 8
    gradient_accumulation_steps: int = 1
    max_length: int | None = 512
    warmup_ratio: float = 0.0
    warmup_steps: int | None = None
    lr_scheduler: LearningRateScheduler = "constant"
    optimizer: Optimizer = "adamw"
    weight_decay: float = 1e-4
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    neftune_noise_alpha: float | None = None
    lora_rank: int = 8
    lora_alpha: int = 32
    lora_dropout: float = 0.1
    lora_target_modules: tuple[str, ...] = ("W_pack",)
    use_rslora: bool = False
    use_dora: bool = False
    seed: int = 42
    logging_steps: int = 1
    save_strategy: SaveStrategy = "steps"
    save_steps: int = 200
    save_total_limit: int = 2
    eval_steps: int | None = None
    validation_split: float = 0.0
    early_stopping_patience: int | None = None
    gradient_checkpointing: bool = False
    packing: bool = True
    dtype: TrainingDtype | None = None
    tf32: bool = False
    report_to: tuple[str, ...] = ()
    device: str | None = None

    def __post_init__(self) -> None:
        for name, choices in OPTION_CHOICES.items():
            if (chosen := getattr(self, name)) not in choices:
                raise ValueError(f"{name} is {chosen!r}; use one of {', '.join(map(repr, choices))}")
        for name, minimum in MIN_OPTION_VALUES.items():
            value = getattr(self, name)
            if value is not None and not value >= minimum:  # written this way to reject NaN too
                raise ValueError(f"{name} is {value}; it must be at least {minimum}")
        for name in FRACTION_OPTIONS:
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be below 1")
        if self.epochs == 0:
            raise ValueError("epochs is 0; it must be above 0")
        check_combination({field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def from_preset(cls, name: str, **changes: Any) -> Self:
        """Return the options of a preset, with the given changes applied.

        Raises:
            ValueError: There is no such preset, or a change is out of range.
        """
        if name not in PRESETS:
            raise ValueError(f"preset is {name!r}; use one of {', '.join(map(repr, PRESETS))}")
        return cls(**{**PRESETS[name], **changes})


def check_combination(options: Mapping[str, Any]) -> None:
    """Reject combinations in which one of the options would have no effect.

    Raises:
        ValueError: The message names the option and the remedy.
    """
    warms_up = options["warmup_ratio"] > 0 or options["warmup_steps"]
    if warms_up and options["lr_scheduler"] in SCHEDULERS_WITHOUT_WARMUP:
        name = "warmup_steps" if options["warmup_steps"] else "warmup_ratio"
        raise ValueError(
            f"{name} is {options[name]}, but lr_scheduler 'constant' has no warm-up; use 'constant_with_warmup'"
        )
    if options["warmup_ratio"] > 0 and options["warmup_steps"]:
        raise ValueError("warmup_ratio and warmup_steps are both given; leave one out")
    for name in ("use_rslora", "use_dora"):
        if options[name] and options["method"] != "lora":
            raise ValueError(f"{name} is true, but method is {options['method']!r}; use method 'lora'")
    if unknown := [name for name in options["report_to"] if name not in TRACKERS]:
        raise ValueError(f"report_to contains {unknown[0]!r}; choose from {', '.join(map(repr, TRACKERS))}")
    targets = options["lora_target_modules"]
    unknown = [name for name in targets if name not in BAICHUAN_LINEAR_LAYERS]
    if unknown or not targets:
        raise ValueError(
            f"lora_target_modules is {list(targets)}; choose from {', '.join(map(repr, BAICHUAN_LINEAR_LAYERS))}"
        )
