"""The Baichuan model: layers, positions, masks, decoder and head."""

from .decoder import BaichuanForCausalLM, BaichuanModel, BaichuanPreTrainedModel
from .head import row_norms

__all__ = ["BaichuanForCausalLM", "BaichuanModel", "BaichuanPreTrainedModel", "row_norms"]
