"""Memory for inference: weights, keys and values, and the activations of one forward pass."""

from collections.abc import Sequence

from .breakdown import Footprint
from .precision import DTYPE_BYTES, Precision
from .shape import ModelShape

FLOAT32_BYTES = DTYPE_BYTES["float32"]
# Tensors that are live at the same time in a feed-forward layer. [tokens, hidden]: the input, the normalized input and
# two sums. [tokens, intermediate]: the gate, the up projection and their product.
FEED_FORWARD_HIDDEN_TENSORS = 4
FEED_FORWARD_INTERMEDIATE_TENSORS = 3
# Tensors [tokens, hidden] in an attention layer: the input, the normalized input, packed queries, keys and values, and
# the output before and after the last projection. With ALiBi, also copies of the queries, keys, values and output
# with eight more columns per head.
ATTENTION_HIDDEN_TENSORS = 7
ALIBI_TENSORS = 4
ALIBI_COLUMNS = 8
# With RoPE, memory peaks while queries and keys are rotated in float32: bytes per unit of the hidden size, keyed by
# the bytes per element of the dtype.
ROTATION_BYTES_PER_UNIT = {2: 28, 4: 32}
CAPACITY_STEP_TOKENS = 64  # the generation engine's cache grows in steps of this many tokens
# `baichuan_core.likelihood` computes logits slice by slice, with three tensors per slice: the logits, their float32
# copy and its log-softmax.
LOGITS_SLICE_BYTES = 2**26
TENSORS_PER_LOGITS_SLICE = 3


def cache_bytes(shape: ModelShape, precision: Precision, *, batch: int, tokens: int) -> int:
    """Return the bytes of the keys and values of `batch` rows with `tokens` tokens each."""
    return 2 * shape.layers * batch * tokens * shape.hidden_size * precision.element_bytes


def estimate_scoring(shape: ModelShape, precision: Precision, *, tokens: int, shared: int = 0) -> Footprint:
    """Estimate the memory for scoring texts in batches of `tokens` tokens, with logits computed in slices.

    Args:
        shape: Sizes of the model.
        precision: Precision of the loaded weights.
        tokens: Maximum number of tokens in a batch.
        shared: Length of a prefix that all texts share (few-shot examples), whose keys and values are kept.
    """
    weights = precision.weight_bytes(shape)
    states = tokens * bytes_per_token(shape, precision) + precision.dequantized_layer_bytes(shape)
    return Footprint(
        weights,
        cache=cache_bytes(shape, precision, batch=1, tokens=shared),
        activations=max(states, TENSORS_PER_LOGITS_SLICE * LOGITS_SLICE_BYTES),
        least=weights,
    )


def estimate_inference(
    shape: ModelShape, precision: Precision, *, batch: int, tokens: int, shared: int = 0
) -> Footprint:
    """Estimate the memory for generating completions for a batch of prompts.

    Args:
        shape: Sizes of the model.
        precision: Precision of the loaded weights.
        batch: Number of completions that are generated at the same time.
        tokens: Maximum length of a prompt together with its completion.
        shared: Tokens of shared prompt prefixes whose keys and values are kept for later prompts.
    """
    weights = precision.weight_bytes(shape)
    rows = cache_bytes(shape, precision, batch=batch, tokens=-(-tokens // CAPACITY_STEP_TOKENS) * CAPACITY_STEP_TOKENS)
    return Footprint(
        weights=weights,
        cache=rows + cache_bytes(shape, precision, batch=1, tokens=shared),
        activations=forward_pass_bytes(shape, precision, batch=batch, tokens=tokens),
        least=weights,
    )


def compute_max_cached_prefix_tokens(prompts: Sequence[int], *, batch_tokens: int) -> int:
    """Return the maximum number of shared-prefix tokens that the generation engine caches.

    Every prefix is shared by at least two prompts, and n prompts have at most n - 1 branching points. The engine keeps
    prefixes of up to a quarter of `batch_tokens`; the most recently used one is always kept, even if it is longer.

    Args:
        prompts: Length in tokens of the prompt of each completion.
        batch_tokens: Maximum number of tokens that are processed at the same time.
    """
    shorter = sorted(prompts)[:-1]
    return min(sum(shorter), max([batch_tokens // 4, *shorter[-1:]]))


def forward_pass_bytes(shape: ModelShape, precision: Precision, *, batch: int, tokens: int) -> int:
    """Return the bytes of a forward pass with logits for each row's last token only; weights and cache are excluded."""
    states = batch * tokens * bytes_per_token(shape, precision) + precision.dequantized_layer_bytes(shape)
    return max(states, logits_bytes(shape, precision, positions=batch))


def bytes_per_token(shape: ModelShape, precision: Precision) -> int:
    """Return the peak bytes per token while one block is computed."""
    element = precision.element_bytes
    feed_forward = (
        FEED_FORWARD_HIDDEN_TENSORS * shape.hidden_size + FEED_FORWARD_INTERMEDIATE_TENSORS * shape.intermediate_size
    )
    if shape.position_embedding == "rope":
        rotation = 2 * FLOAT32_BYTES * shape.hidden_size // shape.heads
        return rotation + max(ROTATION_BYTES_PER_UNIT[element] * shape.hidden_size, feed_forward * element)
    columns = ALIBI_TENSORS * ALIBI_COLUMNS * shape.heads
    return element * max((ATTENTION_HIDDEN_TENSORS + ALIBI_TENSORS) * shape.hidden_size + columns, feed_forward)


def logits_bytes(shape: ModelShape, precision: Precision, *, positions: int) -> int:
    """Return the bytes of logits, including the float32 copies that the normalized head and the sampler make."""
    head_output = (precision.element_bytes + FLOAT32_BYTES) if shape.norm_head else precision.element_bytes
    return positions * shape.vocab_size * (head_output + FLOAT32_BYTES)
