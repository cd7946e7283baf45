"""Settings and result of a fine-tuning run."""

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
CHOICES = {
    "method": get_args(FinetuningMethod),
    "lr_scheduler": get_args(LearningRateScheduler),
    "dtype": (*get_args(TrainingDtype), None),
    "optimizer": get_args(Optimizer),
    "save_strategy": get_args(SaveStrategy),
}
MIN_VALUES = {
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
BELOW_ONE = ("warmup_ratio", "lora_dropout", "adam_beta1", "adam_beta2", "validation_split")
BAICHUAN_LINEAR_LAYERS = ("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")

# Settings of Baichuan2's README and fine-tune.py; and what we would choose for a first run with an adapter.
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
    """How to train. The defaults are those of `finetune` jobs; most come from Baichuan2's README.

    Attributes:
        method: ``full`` trains every weight, ``lora`` an adapter (Hu et al. 2021); QLoRA is ``lora`` on a 4-bit base.
        epochs: Passes over the data; a fraction ends within one.
        max_steps: Steps after which training ends, instead of ``epochs``.
        learning_rate: Its highest value.
        batch_size: Examples per step and device.
        gradient_accumulation_steps: Batches that make one step of the optimizer.
        max_length: Longest example in tokens, the tail is cut; None takes the model's window.
        warmup_ratio: Fraction of the steps in which the learning rate rises, below 1.
        warmup_steps: The same as a number of steps, instead of ``warmup_ratio``.
        lr_scheduler: How the learning rate changes after that.
        optimizer: ``adamw`` (fused), or bitsandbytes' 8-bit and paged ones, which need CUDA.
        weight_decay, adam_beta1, adam_beta2, adam_epsilon: AdamW's.
        max_grad_norm: Gradients are scaled down to this norm; 0 for none.
        neftune_noise_alpha: Noise on embeddings (Jain et al. 2023, arXiv 2310.05914); None for none.
        lora_rank, lora_alpha, lora_dropout: Of the adapter; Baichuan2's script has 1, 32 and 0.1.
        lora_target_modules: Linear layers that get an adapter, by the last part of their name.
        use_rslora: Scale the adapter by alpha / sqrt(rank) (arXiv 2312.03732).
        use_dora: Train magnitude and direction of the weights apart (arXiv 2402.09353).
        seed: Of the order of the examples, dropout and the adapter's first weights.
        logging_steps: Steps between two reports.
        save_strategy: Write a resume point every ``save_steps`` steps, or after each epoch.
        save_steps: Steps between two resume points.
        save_total_limit: Resume points that are kept, besides the best one.
        eval_steps: Steps between two evaluations; None evaluates after each epoch. Needs validation data.
        validation_split: Fraction of the examples that is held back for evaluation.
        early_stopping_patience: Evaluations without a better loss after which training ends; None for no such end.
        gradient_checkpointing: Compute activations twice and keep few of them.
        packing: Fill rows with several short examples each, which stay apart; every step has the same examples and
            the same result without it.
        dtype: What is computed in, ``bfloat16`` being mixed precision; None takes it on CUDA, else ``float32``.
        tf32: Permit TF32 for float32 products on GPUs that have it; has no effect elsewhere.
        report_to: Trackers that the run reports to as well, ``wandb`` and ``mlflow``; both are optional packages.
        device: ``cpu`` or ``cuda``; None takes CUDA if there is any.
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
        for name, choices in CHOICES.items():
            if (chosen := getattr(self, name)) not in choices:
                raise ValueError(f"{name} is {chosen!r}; use one of {', '.join(map(repr, choices))}")
        for name, least in MIN_VALUES.items():
            value = getattr(self, name)
            if value is not None and not value >= least:  # NaN neither
                raise ValueError(f"{name} is {value}; it must be at least {least}")
        for name in BELOW_ONE:
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be below 1")
        if self.epochs == 0:
            raise ValueError("epochs is 0; give a number above 0")
        check_combination({field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Return the options of a preset, with changes.

        Raises:
            ValueError: There is no such preset, or a change is out of range.
        """
        if name not in PRESETS:
            raise ValueError(f"preset is {name!r}; use one of {', '.join(map(repr, PRESETS))}")
        return cls(**{**PRESETS[name], **changes})


def check_combination(options: Mapping[str, Any]) -> None:
    """Reject options that would have no effect together.

    Raises:
        ValueError: The message names the option, and the one to change.
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
        raise ValueError(f"report_to has {unknown[0]!r}; use some of {', '.join(map(repr, TRACKERS))}")
    targets = options["lora_target_modules"]
    unknown = [name for name in targets if name not in BAICHUAN_LINEAR_LAYERS]
    if unknown or not targets:
        raise ValueError(
            f"lora_target_modules is {list(targets)}; use some of {', '.join(map(repr, BAICHUAN_LINEAR_LAYERS))}"
        )
