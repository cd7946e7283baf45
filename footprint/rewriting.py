"""Memory of quantize and convert jobs, which stream: they hold one tensor at a time, in the host's memory."""

from .breakdown import Footprint
from .precision import DTYPE_BYTES, Precision
from .shape import Shape

# The tensor as it is read and what is made of it: float32 forms among them.
FORMS_BYTES = 3 * DTYPE_BYTES["float32"]


def rewriting(shape: Shape, precision: Precision) -> Footprint:
    """Writing a checkpoint anew, quantized or in another form, one tensor at a time.

    Args:
        shape: The model's.
        precision: How the checkpoint that is read is held.
    """
    largest = max([shape.vocab_size * shape.hidden_size, *(rows * columns for rows, columns in shape.layer_matrices)])
    needed = largest * (precision.element_bytes + FORMS_BYTES)
    return Footprint(weights=needed, least=needed, place="host")
