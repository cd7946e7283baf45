"""Memory of quantize and convert jobs, which stream: one tensor, or pieces of them, at a time, in the host's memory.

A calibrated quantization holds one block, where it computes.

Pages of the files that they read do not count: the system drops them when somebody needs the room.
"""

from .breakdown import Footprint
from .precision import Precision
from .shape import Shape

# Of each number of the matrix at hand: its codes, their float32 form and the difference to it.
QUANTIZING_BYTES = 9
# Conversion: of each thread's piece of 1 MiB, most where 4-bit codes become GGUF's, by way of float32.
PIECE_BYTES = 2**20
PIECES_AT_ONCE = 18
MOST_THREADS = 8
# Calibration computes in float32 and holds a block as it was and as it becomes.
FLOAT32_BYTES = 4
BLOCKS_AT_ONCE = 2
# As it sums up over the tokens, squares and matrices of the widest inputs; and of the tokens at hand, in the
# feed-forward layer: the wanted inputs, two factors and their product, and the normed states.
SUMS_SQUARES, SUMS_MATRICES = 2, 1
TOKENS_AT_ONCE = 2048
FEED_FORWARD_INTERMEDIATE = 4
FEED_FORWARD_HIDDEN = 1
# As it solves for the weights that make up for earlier errors: both sums, a factor and what the solver copies.
SOLVING_SQUARES, SOLVING_MATRICES = 4, 3
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
    hidden, intermediate = shape.hidden_size, shape.intermediate_size
    *others, _last = (Precision(quantization="nf4").matrix_bytes(*matrix) for matrix in shape.layer_matrices)
    block = BLOCKS_AT_ONCE * FLOAT32_BYTES * shape.linear_parameters // shape.layers
    square, matrix = FLOAT32_BYTES * intermediate**2, FLOAT32_BYTES * hidden * intermediate
    tokens = FLOAT32_BYTES * (FEED_FORWARD_INTERMEDIATE * intermediate + FEED_FORWARD_HIDDEN * hidden) * TOKENS_AT_ONCE
    summing = SUMS_SQUARES * square + SUMS_MATRICES * matrix + tokens
    solving = SOLVING_SQUARES * square + SOLVING_MATRICES * matrix
    work = max(summing, solving)
    states = 2 * FLOAT32_BYTES * sequences * CALIBRATION_LENGTH * hidden
    weights = block + sum(others)
    return Footprint(weights=weights, activations=work + states, least=weights + work)


def converting(*, threads: int = MOST_THREADS) -> Footprint:
    """Writing a checkpoint in another form: the same whatever its size, beside the vocabulary.

    Args:
        threads: That write, those of torch and no more than eight.
    """
    return _streamed(PIECES_AT_ONCE * PIECE_BYTES * min(threads, MOST_THREADS))


def _streamed(needed: int) -> Footprint:
    return Footprint(weights=needed, least=needed, place="host")
