"""Training on a GPU: tokens per second, model FLOPS utilization (MFU) and peak memory; part of `benchmarks.gpu`.

MFU is (FLOPs per token x tokens per second) / peak, with Kaplan et al.'s count (arXiv 2001.08361, section 2.1): a
forward pass takes 2 FLOPs per parameter and token and 4 * layers * hidden * length for attention; a backward pass takes
twice as much in full training, and as much again for an adapter, whose frozen base has no weight gradients.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model

from baichuan_core import BaichuanForCausalLM
from baichuan_core.memory import measure_peak_memory
from footprint import GIB, ModelShape

# Dense bfloat16 FLOPs per second from NVIDIA's data sheets, by a part of the device's name.
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "A10": 125e12}
RANK = 8


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    name: str
    shape: ModelShape
    batch: int
    tokens: int
    full: bool = False
    limit: int | None = None  # bytes that weights and training may take together


def stored_bytes(model: BaichuanForCausalLM) -> int:
    """Return the bytes of a model's tensors; shared storage counts once."""
    tensors = [tensor for tensor in model.state_dict().values() if isinstance(tensor, torch.Tensor)]
    return sum({tensor.data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


def step_flops(shape: ModelShape, tokens: int, *, full: bool) -> float:
    """Return the FLOPs per token of a forward and a backward pass over rows of `tokens` tokens."""
    forward = 2 * (
        shape.parameter_count - shape.vocab_size * shape.hidden_size
    )  # looking up an embedding takes no FLOPs
    forward += 4 * shape.layers * shape.hidden_size * tokens
    return forward * (3 if full else 2)


def peak_flops(device: torch.device, measure: Callable[[], float]) -> tuple[float, str]:
    """Return the peak FLOPs per second and its source; `measure` determines it for devices without a known peak."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    for part, peak in PEAK_FLOPS.items():
        if part in name:
            return peak, "data sheet"
    return measure(), "measured product of large matrices"


def train_case(
    case: Case,
    model: BaichuanForCausalLM,
    device: torch.device,
    seconds: Callable[[Callable[[], Any]], float],
    peak: tuple[float, str],
) -> Iterator[tuple[str, str]]:
    """Measure AdamW steps on random tokens, with gradient checkpointing and the loss in chunks."""
    if case.full:
        model.float()  # as `finetune` keeps weights that it trains; it computes in bfloat16
    weights = stored_bytes(model)
    trained: Any = model if case.full else get_peft_model(model, _adapter())
    trained.train()
    trained.gradient_checkpointing_enable({"use_reentrant": False})
    trained.enable_input_require_grads()
    optimizer = torch.optim.AdamW(
        [weight for weight in trained.parameters() if weight.requires_grad], lr=1e-5, fused=device.type == "cuda"
    )
    ids = torch.randint(3, case.shape.vocab_size, (case.batch, case.tokens), device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = trained(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    with measure_peak_memory(device) as taken:
        step()
    rate = case.batch * case.tokens / seconds(step)
    mfu = step_flops(case.shape, case.tokens, full=case.full) * rate / peak[0]
    speed = f"{rate:,.0f} tokens/s, MFU {mfu:.1%} of {peak[0] / 1e12:,.3g} TFLOPS ({peak[1]})"
    yield case.name, f"{speed}, {_describe_memory(weights, taken.bytes, case.limit)}"


def _describe_memory(weights: int, beyond: int, limit: int | None) -> str:
    described = f"{beyond / GIB:.3f} GiB beyond the weights, {(weights + beyond) / GIB:.3f} GiB with them"
    if limit is None:
        return described
    return f"{described} ({'within' if weights + beyond <= limit else 'NOT WITHIN'} {limit / 10**9:g} GB)"


def _adapter() -> LoraConfig:
    return LoraConfig(task_type=TaskType.CAUSAL_LM, target_modules=["W_pack"], r=RANK, lora_alpha=32)
