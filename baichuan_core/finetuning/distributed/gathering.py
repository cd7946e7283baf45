"""Gathers the trained weights of all ranks, so that rank 0 can write them."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from baichuan_core.finetuning.distributed.distribution import DistributionPlan


def gather_trained_weights(model: nn.Module, plan: DistributionPlan) -> dict[str, Tensor]:
    """Return the trained weights by name, on the CPU. They are complete on rank 0; every rank must call this.

    Weights that ZeRO trains in bfloat16 are taken from its float32 copies.
    """
    if plan.strategy == "fsdp2":
        settings = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        return cast("dict[str, Tensor]", get_model_state_dict(model, options=settings))
    if plan.deepspeed is not None:
        return _gather_from_zero(model)
    return {name: weight.detach().cpu() for name, weight in model.named_parameters() if weight.requires_grad}


def _gather_from_zero(model: nn.Module) -> dict[str, Tensor]:
    from deepspeed.utils import safe_get_full_fp32_param  # noqa: PLC0415 - slow to import; used only with ZeRO

    is_main = torch.distributed.get_rank() == 0
    found: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            full = safe_get_full_fp32_param(weight)  # gathers the shards from all ranks
            if is_main:
                found[name] = full.detach().cpu()
            del full
    return found


def count_trained_parameters(model: nn.Module) -> int:
    """Return the number of trained parameters.

    A weight that ZeRO-3 has partitioned is empty and stores its size as `ds_numel`.
    """
    weights: list[Any] = [weight for weight in model.parameters() if weight.requires_grad]
    return sum(getattr(weight, "ds_numel", None) or weight.numel() for weight in weights)
