"""Memory of quantize and convert jobs, which stream: they hold one tensor at a time, in the host's memory.

Pages of the files that they read do not count: the system drops them when somebody needs the room.
"""

from .breakdown import Footprint
from .precision import Precision
from .shape import Shape

# Of each number of the matrix at hand: its codes, their float32 form and the difference to it.
QUANTIZING_BYTES = 9
TENSORS_AT_ONCE = 2  # one as it is read, one as it is written


def quantizing(shape: Shape, *, quantize_head: bool) -> Footprint:
    """Writing a checkpoint quantized.

    Args:
        shape: The model's.
        quantize_head: Whether embedding and head are quantized as well.
    """
    matrices = [rows * columns for rows, columns in shape.layer_matrices]
    largest = max([*matrices, *([shape.vocab_size * shape.hidden_size] if quantize_head else [])])
    return _streamed(QUANTIZING_BYTES * largest)


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
