"""Which tensors a Baichuan checkpoint holds, under their published names."""

from baichuan_core.config import BaichuanConfig

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
# Beside 8-bit rows (quantize_head): what one step of each row is worth.
HEAD_SCALE = "lm_head.scale"
EMBEDDING_SCALE = "model.embed_tokens.scale"
SCALES = (HEAD_SCALE, EMBEDDING_SCALE)

Shape = tuple[int, ...]


def linear_layers(config: BaichuanConfig) -> dict[str, Shape]:
    """Weight names and shapes [out, in] of the five linear layers of every block, in order."""
    hidden, intermediate = config.hidden_size, config.intermediate_size
    of_a_block = {
        "self_attn.W_pack": (3 * hidden, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (intermediate, hidden),
        "mlp.up_proj": (intermediate, hidden),
        "mlp.down_proj": (hidden, intermediate),
    }
    return {
        f"model.layers.{block}.{layer}.weight": shape
        for block in range(config.num_hidden_layers)
        for layer, shape in of_a_block.items()
    }


def expected_tensors(config: BaichuanConfig) -> dict[str, Shape]:
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
