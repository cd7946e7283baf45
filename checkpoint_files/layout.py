"""Names and shapes of the tensors in a Baichuan checkpoint."""

from typing import Protocol

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
# Scales of the rows of an 8-bit head or embedding (quantize_head).
HEAD_SCALE = "lm_head.scale"
EMBEDDING_SCALE = "model.embed_tokens.scale"
SCALES = (HEAD_SCALE, EMBEDDING_SCALE)

Shape = tuple[int, ...]


class Sizes(Protocol):
    """The fields of a configuration that the tensors depend on."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    tie_word_embeddings: bool
    quantize_head: bool


BLOCK_LAYERS = ("self_attn.W_pack", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def block_layers(block: int) -> list[str]:
    """Return the names of the five linear layers of a block, in order."""
    return [f"model.layers.{block}.{layer}" for layer in BLOCK_LAYERS]


def linear_layers(config: Sizes) -> dict[str, Shape]:
    """Return the weight names and shapes [out, in] of the five linear layers of every block, in order."""
    hidden, intermediate = config.hidden_size, config.intermediate_size
    shapes = ((3 * hidden, hidden), (hidden, hidden), *((intermediate, hidden),) * 2, (hidden, intermediate))
    return {
        f"{layer}.weight": shape
        for block in range(config.num_hidden_layers)
        for layer, shape in zip(block_layers(block), shapes, strict=True)
    }


def expected_tensors(config: Sizes) -> dict[str, Shape]:
    """Return the names and shapes of a checkpoint's tensors, except the scales that bitsandbytes adds to weights."""
    norms = {
        f"model.layers.{block}.{norm}.weight": (config.hidden_size,)
        for block in range(config.num_hidden_layers)
        for norm in ("input_layernorm", "post_attention_layernorm")
    }
    vocabulary_shape = (config.vocab_size, config.hidden_size)
    others: dict[str, Shape] = {
        EMBEDDING: vocabulary_shape,
        FINAL_NORM: (config.hidden_size,),
        HEAD: vocabulary_shape,
    }
    if config.tie_word_embeddings:
        del others[HEAD]
    if config.quantize_head:
        others |= {HEAD_SCALE: (config.vocab_size,), EMBEDDING_SCALE: (config.vocab_size,)}
    return linear_layers(config) | norms | others
