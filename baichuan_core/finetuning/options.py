"""Settings and result of a fine-tuning run."""

from dataclasses import dataclass
from typing import Literal, get_args

FinetuningMethod = Literal["full", "lora"]
LearningRateScheduler = Literal["constant", "constant_with_warmup", "linear", "cosine"]
TrainingDtype = Literal["float32", "bfloat16"]

FULL_LEARNING_RATE = 2e-5  # Baichuan2's README
LORA_LEARNING_RATE = 2e-4
CHOICES = {
    "method": get_args(FinetuningMethod),
    "lr_scheduler": get_args(LearningRateScheduler),
    "dtype": (*get_args(TrainingDtype), None),
}
LEAST_VALUES = {
    "epochs": 0,
    "learning_rate": 0,
    "batch_size": 1,
    "gradient_accumulation_steps": 1,
    "max_length": 2,
    "warmup_ratio": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "lora_rank": 1,
    "lora_alpha": 1,
    "lora_dropout": 0,
    "save_steps": 1,
}


@dataclass(frozen=True, slots=True)
class FinetuningOptions:
    """How to train.

    Attributes:
        method: ``full`` trains every weight, ``lora`` an adapter on ``W_pack`` (Hu et al. 2021).
        epochs: Passes over the data; a fraction ends within one.
        learning_rate: Its highest value; None takes 2e-5 (full) or 2e-4 (LoRA).
        batch_size: Examples a step and device.
        gradient_accumulation_steps: Batches that make one step of the optimizer.
        max_length: Longest example in tokens, the tail is cut; None takes the model's window.
        warmup_ratio: Share of the steps in which the learning rate rises, below 1.
        weight_decay: AdamW's.
        lr_scheduler: How the learning rate goes on after that.
        max_grad_norm: Gradients are scaled down to this norm.
        lora_rank, lora_alpha, lora_dropout: Of the adapter; Baichuan2's script has 1, 32 and 0.1.
        seed: Of the order of the examples, dropout and the adapter's first weights.
        save_steps: Steps between two resumable checkpoints.
        gradient_checkpointing: Compute activations twice and keep few of them.
        packing: Fill rows with several short examples each, which stay apart; every step has the same examples and
            the same result without it.
        dtype: What is computed in, ``bfloat16`` being mixed precision; None takes it on CUDA, else ``float32``.
        device: ``cpu`` or ``cuda``; None takes CUDA if there is any.
    """

    method: FinetuningMethod = "full"
    epochs: float = 3.0
    learning_rate: float | None = None
    batch_size: int = 8
    gradient_accumulation_steps: int = 1
    max_length: int | None = None
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    lr_scheduler: LearningRateScheduler = "cosine"
    max_grad_norm: float = 1.0
    lora_rank: int = 8
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    seed: int = 42
    save_steps: int = 200
    gradient_checkpointing: bool = True
    packing: bool = True
    dtype: TrainingDtype | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if (chosen := getattr(self, name)) not in choices:
                raise ValueError(f"{name} is {chosen!r}; use one of {', '.join(map(repr, choices))}")
        for name, least in LEAST_VALUES.items():
            value = getattr(self, name)
            if value is not None and not value >= least:  # NaN neither
                raise ValueError(f"{name} is {value}; it must be at least {least}")
        for name in ("warmup_ratio", "lora_dropout"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be below 1")
        if self.epochs == 0:
            raise ValueError("epochs is 0; give a number above 0")

    @property
    def highest_learning_rate(self) -> float:
        """The learning rate, with the method's default filled in."""
        if self.learning_rate is not None:
            return self.learning_rate
        return LORA_LEARNING_RATE if self.method == "lora" else FULL_LEARNING_RATE


@dataclass(frozen=True, slots=True)
class FinetuningReport:
    """What a run did.

    Attributes:
        final_loss: Loss of the last step.
        steps: Steps of the optimizer, those before a resumption included.
        examples: Examples that were trained on.
        dropped_examples: Examples left out because no answer lay within ``max_length``.
        truncated_examples: Examples whose end was cut off.
        trained_parameters: How many numbers were trained.
        resumed_from_step: Step of the checkpoint that training went on from, 0 if it began anew.
        packing: Whether rows had several examples.
        filled: Fraction of the positions of all batches that were tokens, not padding.
    """

    final_loss: float
    steps: int
    examples: int
    dropped_examples: int
    truncated_examples: int
    trained_parameters: int
    resumed_from_step: int
    packing: bool
    filled: float
