"""Chooses the outlier threshold of int8 layers by running the model on a text."""

import torch
from torch import Tensor

from baichuan_core.checkpoint import EMBEDDING, TensorReader
from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import CheckpointError
from baichuan_core.model.quantization import OUTLIER_THRESHOLD
from baichuan_core.progress import Progress, ProgressCallback

from .blocks import BATCH_TOKENS, SUBLAYERS
from .one_block import SingleBlockDecoder

# Fraction of the input columns left unquantized in each row of token ids; about 0.01 with LLM.int8()'s default.
UNQUANTIZED_COLUMN_FRACTION = 0.1
MIN_OUTLIER_THRESHOLD = 1e-3  # a threshold of 0 would turn off outlier handling


def find_outlier_threshold(
    reader: TensorReader, config: BaichuanConfig, rows: Tensor, *, device: torch.device, on_progress: ProgressCallback
) -> float:
    """Find the LLM.int8() threshold (Dettmers et al. 2022, arXiv 2208.07339) that leaves 10% of columns unquantized.

    Args:
        reader: The unquantized checkpoint.
        config: Configuration of the checkpoint.
        rows: Token ids of the calibration text, [rows, length].
        device: Device to compute on.
        on_progress: Called after each block.

    Raises:
        CheckpointError: A block produces NaN or infinite values.
    """
    block, largest = SingleBlockDecoder(config, device), []
    states = reader.read(EMBEDDING)[rows].float()
    step = max(1, BATCH_TOKENS // rows.shape[1])
    for number in range(config.num_hidden_layers):
        block.load(reader, number)
        for few in states.split(step):
            now = few.to(device)
            for groups in SUBLAYERS:
                for layers in groups:
                    inputs = block.compute_inputs(layers[0], now).unflatten(0, now.shape[:2])
                    largest.append(inputs.abs().amax(dim=1).flatten().cpu())
                now = block.run_sublayer(groups[0][0], now)
            few.copy_(now)
        if not states.isfinite().all():
            raise CheckpointError(
                f"block {number} of {reader.checkpoint} produces NaN or infinite values on the calibration text: "
                "use an earlier, undamaged checkpoint"
            )
        on_progress(Progress((number + 1) / config.num_hidden_layers, "calibrating", {"block": float(number + 1)}))
    ordered = torch.cat(largest).sort().values
    found = float(ordered[int((1 - UNQUANTIZED_COLUMN_FRACTION) * len(ordered))])
    return round(min(max(found, MIN_OUTLIER_THRESHOLD), OUTLIER_THRESHOLD), 3)
