"""The Baichuan model: layers, position embeddings, masks, decoder and output head."""

from .decoder import BaichuanForCausalLM, BaichuanModel, BaichuanPreTrainedModel
from .head import row_norms

__all__ = ["BaichuanForCausalLM", "BaichuanModel", "BaichuanPreTrainedModel", "row_norms"]
