"""Which tensors a Baichuan checkpoint holds, under their published names."""

from typing import Protocol

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
# Beside 8-bit rows (quantize_head): what one step of each row is worth.
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
    """Names of the five linear layers of a block, in order."""
    return [f"model.layers.{block}.{layer}" for layer in BLOCK_LAYERS]


def linear_layers(config: Sizes) -> dict[str, Shape]:
    """Weight names and shapes [out, in] of the five linear layers of every block, in order."""
    hidden, intermediate = config.hidden_size, config.intermediate_size
    shapes = ((3 * hidden, hidden), (hidden, hidden), *((intermediate, hidden),) * 2, (hidden, intermediate))
    return {
        f"{layer}.weight": shape
        for block in range(config.num_hidden_layers)
        for layer, shape in zip(block_layers(block), shapes, strict=True)
    }


def expected_tensors(config: Sizes) -> dict[str, Shape]:
    """Names and shapes of all tensors of a checkpoint, but for those that bitsandbytes keeps beside a weight."""
    norms = {
        f"model.layers.{block}.{norm}.weight": (config.hidden_size,)
        for block in range(config.num_hidden_layers)
        for norm in ("input_layernorm", "post_attention_layernorm")
    }
    table = (config.vocab_size, config.hidden_size)
    ends: dict[str, Shape] = {EMBEDDING: table, FINAL_NORM: (config.hidden_size,), HEAD: table}
    if config.tie_word_embeddings:
        del ends[HEAD]
    if config.quantize_head:
        ends |= {HEAD_SCALE: (config.vocab_size,), EMBEDDING_SCALE: (config.vocab_size,)}
    return linear_layers(config) | norms | ends
