"""Fine-tuning with several processes, called ranks, on one or more machines."""

from baichuan_core.finetuning.distributed.distribution import Distribution, DistributionPlan

__all__ = ["Distribution", "DistributionPlan"]
