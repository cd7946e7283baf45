"""Memory of a model that answers: weights, keys and values, and the hidden states of one forward pass."""

from collections.abc import Sequence

from .breakdown import Footprint
from .precision import DTYPE_BYTES, Precision
from .shape import Shape

FLOAT32 = DTYPE_BYTES["float32"]
# Tensors [tokens, hidden] and [tokens, intermediate] that live at once in a feed-forward layer: its input, the
# normed one and two sums; the gate, the other projection and their product.
FEED_FORWARD_HIDDEN = 4
FEED_FORWARD_INTERMEDIATE = 3
# In an attention layer: its input, the normed one, queries, keys and values in one, the output before and after the
# last projection; for ALiBi, queries, keys, values and output with eight columns more.
ATTENTION_HIDDEN = 7
ALIBI_TENSORS = 4
ALIBI_COLUMNS = 8
# RoPE needs most where keys are turned, in float32. Bytes a unit of the hidden size, by those of an element.
TURNED_BYTES = {2: 28, 4: 32}
CAPACITY_STEP = 64  # tokens by which the cache of the generation engine grows
# The likelihoods of `baichuan_core.likelihood`: logits, their float32 form and its log-softmax.
SCORED_SLICE_BYTES = 2**26
SCORED_SLICES = 3


def cache_bytes(shape: Shape, precision: Precision, *, batch: int, tokens: int) -> int:
    """Bytes of the keys and values of `batch` rows of `tokens` tokens each."""
    return 2 * shape.layers * batch * tokens * shape.hidden_size * precision.element_bytes


def scoring(shape: Shape, precision: Precision, *, tokens: int, shared: int = 0) -> Footprint:
    """Likelihoods of texts, `tokens` tokens of them at a time, whose logits come in slices.

    Args:
        shape: The model's.
        precision: How the model is held.
        tokens: In a batch, at most.
        shared: Tokens that all texts begin with (examples before questions): their keys and values are kept.
    """
    weights = precision.weight_bytes(shape)
    states = tokens * token_bytes(shape, precision) + precision.restored_bytes(shape)
    return Footprint(
        weights,
        cache=cache_bytes(shape, precision, batch=1, tokens=shared),
        activations=max(states, SCORED_SLICES * SCORED_SLICE_BYTES),
        least=weights,
    )


def inference(shape: Shape, precision: Precision, *, batch: int, tokens: int, shared: int = 0) -> Footprint:
    """A batch of prompts that are read and answered.

    Args:
        shape: The model's.
        precision: How the model is held.
        batch: Rows that are answered at the same time.
        tokens: Length of a row, prompt and answer together.
        shared: Tokens of common beginnings of prompts whose keys and values are kept for rows to come.
    """
    weights = precision.weight_bytes(shape)
    rows = cache_bytes(shape, precision, batch=batch, tokens=-(-tokens // CAPACITY_STEP) * CAPACITY_STEP)
    return Footprint(
        weights=weights,
        cache=rows + cache_bytes(shape, precision, batch=1, tokens=shared),
        activations=forward_bytes(shape, precision, batch=batch, tokens=tokens),
        least=weights,
    )


def kept_beginnings(prompts: Sequence[int], *, batch_tokens: int) -> int:
    """Most tokens of common beginnings that the generation engine keeps.

    A beginning is that of two prompts or more, and n prompts have n - 1 branching points at most. What is kept stays
    within a quarter of the tokens that run at once, but for the newest one, which may be longer.

    Args:
        prompts: Tokens of the prompt of each completion.
        batch_tokens: Most tokens that run at once.
    """
    shorter = sorted(prompts)[:-1]
    return min(sum(shorter), max([batch_tokens // 4, *shorter[-1:]]))


def forward_bytes(shape: Shape, precision: Precision, *, batch: int, tokens: int) -> int:
    """Bytes beside weights and cache, to read `batch` rows of `tokens` tokens and give the logits that follow each."""
    states = batch * tokens * token_bytes(shape, precision) + precision.restored_bytes(shape)
    return max(states, logits_bytes(shape, precision, positions=batch))


def token_bytes(shape: Shape, precision: Precision) -> int:
    """Bytes a token of the one block that is being computed, where they are most."""
    element = precision.element_bytes
    feed_forward = FEED_FORWARD_HIDDEN * shape.hidden_size + FEED_FORWARD_INTERMEDIATE * shape.intermediate_size
    if shape.position_embedding == "rope":
        rotation = 2 * FLOAT32 * shape.hidden_size // shape.heads
        return rotation + max(TURNED_BYTES[element] * shape.hidden_size, feed_forward * element)
    columns = ALIBI_TENSORS * ALIBI_COLUMNS * shape.heads
    return element * max((ATTENTION_HIDDEN + ALIBI_TENSORS) * shape.hidden_size + columns, feed_forward)


def logits_bytes(shape: Shape, precision: Precision, *, positions: int) -> int:
    """Bytes of logits; a normalised head divides them in float32, and the sampler has a float32 form."""
    forms = (precision.element_bytes + FLOAT32) if shape.norm_head else precision.element_bytes
    return positions * shape.vocab_size * (forms + FLOAT32)
