"""temp"""

from pathlib import Path

from baichuan_core.finetuning.distributed.distribution import SINGLE, Distribution, Plan
from baichuan_core.finetuning.distributed.ds_config import complete_config, zero_preset
from baichuan_core.finetuning.options import FinetuningOptions


def plan_run(checkpoint: Path, options: FinetuningOptions, distribution: Distribution | None) -> Plan:
    if distribution is None:
        return SINGLE
    d = distribution
    ds = complete_config(zero_preset(d.strategy, on_gpu=False), options) if d.strategy.startswith("zero") else None
    return Plan(d.strategy, "test", ds, d.processes, d.nodes, d.node_rank, d.master_addr, d.master_port)
