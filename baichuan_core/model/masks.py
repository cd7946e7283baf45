"""Attention masks that combine causality, padding and packed examples."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache
from transformers.masking_utils import create_causal_mask
from transformers.utils.import_utils import is_tracing

from baichuan_core.config import BaichuanConfig

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def make_causal_mask(
    config: BaichuanConfig,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    past_key_values: Cache | None,
    position_ids: Tensor | None = None,
    *,
    may_be_implied: bool = True,
    **_: Any,
) -> Tensor | None:
    """Create the mask for transformers' attention functions, or None if plain causal attention is enough.

    In a two-dimensional `attention_mask` [batch, keys], 0 means padding. Tokens with the same non-zero number belong to
    the same packed example and see only each other. A four-dimensional mask is returned unchanged.
    """
    same_example = _make_same_example_mask(attention_mask, inputs_embeds, past_key_values)
    mask = create_causal_mask(
        config=config,
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        past_key_values=past_key_values,
        position_ids=position_ids,
        and_mask_function=same_example,
        allow_is_causal_skip=may_be_implied,
    )
    return cast("Tensor | None", mask)  # only flex attention returns a BlockMask


def _make_same_example_mask(mask: Tensor | None, inputs_embeds: Tensor, cache: Cache | None) -> MaskFunction | None:
    """Return a mask function that is true within one packed example, or None if examples are not packed."""
    if mask is None or mask.ndim != 2 or mask.dtype == torch.bool:  # noqa: PLR2004
        return None
    if not is_tracing(mask) and mask.max() <= 1:
        return None
    keys = cache.get_mask_sizes(inputs_embeds.shape[1], 0)[0] if cache is not None else mask.shape[1]
    examples = torch.nn.functional.pad(mask.to(inputs_embeds.device), (0, keys - mask.shape[1]))

    def is_same_example(batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return examples[batch, query] == examples[batch, key]

    return is_same_example
