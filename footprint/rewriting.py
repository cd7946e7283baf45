"""Memory of quantize and convert jobs, which stream: they hold one tensor at a time, in the host's memory.

A calibrated quantization holds one block, where it computes.

Pages of the files that they read do not count: the system drops them when somebody needs the room.
"""

from .breakdown import Footprint
from .precision import Precision
from .shape import Shape

# Of each number of the matrix at hand: its codes, their float32 form and the difference to it.
QUANTIZING_BYTES = 9
TENSORS_AT_ONCE = 2  # one as it is read, one as it is written
# Calibration computes in float32 and holds a block as it was and as it becomes.
FLOAT32_BYTES = 4
BLOCKS_AT_ONCE = 2
# Of the widest layer's inputs: two sums over the tokens, a sorted and a damped copy, an inverse and two factors.
SQUARES_AT_ONCE = 7
# Of each number of the widest matrix: its target, what is left of it, its scale, its restored value, its position.
ROUNDING_BYTES = 4 * FLOAT32_BYTES + 8
CALIBRATION_LENGTH = 512


def quantizing(shape: Shape, *, quantize_head: bool) -> Footprint:
    """Writing a checkpoint quantized.

    Args:
        shape: The model's.
        quantize_head: Whether embedding and head are quantized as well.
    """
    matrices = [rows * columns for rows, columns in shape.layer_matrices]
    largest = max([*matrices, *([shape.vocab_size * shape.hidden_size] if quantize_head else [])])
    return _streamed(QUANTIZING_BYTES * largest)


def calibrating(shape: Shape, *, sequences: int) -> Footprint:
    """Choosing 4-bit codes by what the model computes on a text, block after block.

    Args:
        shape: The model's.
        sequences: Rows of 512 tokens of the text.
    """
    matrices = [rows * columns for rows, columns in shape.layer_matrices]
    widest = max(columns for _, columns in shape.layer_matrices)
    weights = BLOCKS_AT_ONCE * FLOAT32_BYTES * sum(matrices)
    rounding = SQUARES_AT_ONCE * FLOAT32_BYTES * widest**2 + ROUNDING_BYTES * max(matrices)
    states = 2 * FLOAT32_BYTES * sequences * CALIBRATION_LENGTH * shape.hidden_size
    return Footprint(weights=weights, activations=rounding + states, least=weights + rounding)


def converting(shape: Shape, precision: Precision) -> Footprint:
    """Writing a checkpoint in another form.

    Args:
        shape: The model's.
        precision: How the checkpoint is held.
    """
    matrices = [rows * columns for rows, columns in shape.layer_matrices]
    largest = max(shape.vocab_size * shape.hidden_size, *matrices)
    return _streamed(TENSORS_AT_ONCE * largest * precision.element_bytes)


def _streamed(needed: int) -> Footprint:
    return Footprint(weights=needed, least=needed, place="host")
