"""Which inputs of int8 layers stay floats, told from what the model computes on a text."""

import torch
from torch import Tensor

from baichuan_core.checkpoint import EMBEDDING, TensorReader
from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import CheckpointError
from baichuan_core.model.quantization import OUTLIER_THRESHOLD
from baichuan_core.progress import Progress, ProgressCallback

from .blocks import HALVES, TOKENS_AT_ONCE
from .one_block import OneBlock

SHARE = 0.1  # of the columns of inputs stay floats for a row of text; LLM.int8()'s own threshold leaves about 0.01
LOWEST = 1e-3  # 0 would mean none


def outlier_threshold(
    reader: TensorReader, config: BaichuanConfig, rows: Tensor, *, device: torch.device, on_progress: ProgressCallback
) -> float:
    """The threshold of LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339) that leaves a tenth of the columns floats.

    Args:
        reader: The unquantized checkpoint.
        config: Its configuration.
        rows: Token ids of the calibration text, [rows, length].
        device: Where to compute.
        on_progress: Told after each block.

    Raises:
        CheckpointError: A block computes NaN or infinite numbers.
    """
    block, largest = OneBlock(config, device), []
    states = reader.read(EMBEDDING)[rows].float()
    step = max(1, TOKENS_AT_ONCE // rows.shape[1])
    for number in range(config.num_hidden_layers):
        block.load(reader, number)
        for few in states.split(step):
            now = few.to(device)
            for groups in HALVES:
                for layers in groups:
                    inputs = block.inputs(layers[0], now).unflatten(0, now.shape[:2])
                    largest.append(inputs.abs().amax(dim=1).flatten().cpu())
                now = block.half_of(groups[0][0], now)
            few.copy_(now)
        if not states.isfinite().all():
            raise CheckpointError(
                f"block {number} of {reader.checkpoint} computes NaN or infinite numbers on the calibration text: "
                "use the checkpoint as it was before they came in"
            )
        on_progress(Progress((number + 1) / config.num_hidden_layers, "calibrating", {"block": float(number + 1)}))
    ordered = torch.cat(largest).sort().values
    found = float(ordered[int((1 - SHARE) * len(ordered))])
    return round(min(max(found, LOWEST), OUTLIER_THRESHOLD), 3)
