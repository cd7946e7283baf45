"""Memory estimates for quantize and convert jobs.

They stream the weights: only one tensor, or chunks of tensors, are in host memory at a time. Calibrated quantization
keeps one block on the device it computes on. Cached pages of the input files do not count, because the system evicts
them under memory pressure.
"""

from .breakdown import Footprint
from .precision import Precision
from .shape import ModelShape

# Bytes per element of the current matrix: its code (1), the dequantized float32 value (4) and the difference (4).
QUANTIZING_BYTES_PER_ELEMENT = 9
# In a conversion, each thread processes chunks of 1 MiB; it holds the most chunks when it converts 4-bit codes to GGUF
# through float32.
CHUNK_BYTES = 2**20
CHUNKS_PER_THREAD = 18
MAX_THREADS = 8
# Calibration computes in float32 and keeps two copies of a block: the original and the quantized one.
FLOAT32_BYTES = 4
BLOCK_COPIES = 2
# Numbers of matrices [intermediate, intermediate] and [hidden, intermediate] that exist while second moments are summed
# over tokens.
SUMS_SQUARES, SUMS_MATRICES = 2, 1
# Tensors of a feed-forward layer for the tokens of a batch. [tokens, intermediate]: the inputs of down_proj in the
# unquantized model, the gate, the up projection and their product. [tokens, hidden]: the normalized states.
BATCH_TOKENS = 2048
FEED_FORWARD_INTERMEDIATE_TENSORS = 4
FEED_FORWARD_HIDDEN_TENSORS = 1
# Numbers of the same matrices while the compensated weights are computed: both accumulators, one factor and the
# solver's working copies.
SOLVING_SQUARES, SOLVING_MATRICES = 4, 3
CALIBRATION_SEQUENCE_TOKENS = 512


def estimate_quantization(shape: ModelShape, *, quantize_head: bool) -> Footprint:
    """Estimate the memory for quantizing a checkpoint without calibration.

    Args:
        shape: Sizes of the model.
        quantize_head: Whether embedding and output head are quantized too.
    """
    matrices = [rows * columns for rows, columns in shape.layer_matrices]
    largest = max([*matrices, *([shape.vocab_size * shape.hidden_size] if quantize_head else [])])
    return _build_host_footprint(QUANTIZING_BYTES_PER_ELEMENT * largest)


def estimate_calibration(shape: ModelShape, *, sequences: int) -> Footprint:
    """Estimate the memory for calibrated 4-bit quantization, one block at a time.

    Args:
        shape: Sizes of the model.
        sequences: Number of calibration rows, each of 512 tokens.
    """
    hidden, intermediate = shape.hidden_size, shape.intermediate_size
    *others, _last = (Precision(quantization="nf4").matrix_bytes(*matrix) for matrix in shape.layer_matrices)
    block = BLOCK_COPIES * FLOAT32_BYTES * shape.linear_parameter_count // shape.layers
    square, matrix = FLOAT32_BYTES * intermediate**2, FLOAT32_BYTES * hidden * intermediate
    tokens = (
        FLOAT32_BYTES
        * (FEED_FORWARD_INTERMEDIATE_TENSORS * intermediate + FEED_FORWARD_HIDDEN_TENSORS * hidden)
        * BATCH_TOKENS
    )
    summing = SUMS_SQUARES * square + SUMS_MATRICES * matrix + tokens
    solving = SOLVING_SQUARES * square + SOLVING_MATRICES * matrix
    work = max(summing, solving)
    states = 2 * FLOAT32_BYTES * sequences * CALIBRATION_SEQUENCE_TOKENS * hidden
    weights = block + sum(others)
    return Footprint(weights=weights, activations=work + states, least=weights + work)


def estimate_conversion(*, threads: int = MAX_THREADS) -> Footprint:
    """Estimate the memory for converting a checkpoint, which does not depend on the size of the model.

    Args:
        threads: Number of writer threads: torch's number of threads, but at most eight.
    """
    return _build_host_footprint(CHUNKS_PER_THREAD * CHUNK_BYTES * min(threads, MAX_THREADS))


def _build_host_footprint(needed: int) -> Footprint:
    return Footprint(weights=needed, least=needed, place="host")
