"""Forward passes with one cache slot per row: over the prompts of new rows, or over one more token of every row."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from baichuan_core.generation.engines.native.attention import GroupedRowAttention, group_rows_by_length
from baichuan_core.generation.engines.native.cache import CacheSize, CacheWindow, SlotCache
from baichuan_core.generation.engines.native.passes import MAX_PREFILL_TOKENS
from baichuan_core.model import BaichuanForCausalLM

MIN_BUCKET_KEYS = 256  # minimum number of keys with which the compiled decoder is called


class CachedModel:
    """The model with a cache that has one slot per row.

    A row's tokens are written to the positions 0, 1, 2, ... of its slot. `prefill` and `decode` read only the slots
    of their rows, so other slots may contain anything.

    Example:
        prefill(0, [[5, 6, 7], [8]], starts=[0, 0])   slot 0: keys of 5 6 7    slot 1: keys of 8 and padding
        decode(newest=[9, 4], places=[3, 1])          slot 0: keys of 5 6 7 9  slot 1: keys of 8 4
        The key of 4 replaces the padding after 8 before anything reads it.

    Attributes:
        model: The model, in eval mode.
        device: The device of the first layer and of all inputs.
        cache: Keys and values of all slots; empty until the cache is resized.
        compiled: The compiled decoder for single-token steps, or None. It always runs on all slots, and the number
            of keys is rounded up, so that it is compiled for few shapes. This costs little on a GPU, where a step takes
            as long for few rows as for many.
    """

    def __init__(self, model: BaichuanForCausalLM) -> None:
        self.model = model
        self.device = model.device
        self.cache = SlotCache(model.config.num_hidden_layers, CacheSize(0, 0))
        self.compiled: Any = None

    def free_cache(self) -> None:
        """Free the memory of the cache."""
        self.cache = SlotCache(self.model.config.num_hidden_layers, CacheSize(0, 0))

    def prefill(self, first: int, tokens: Sequence[Sequence[int]], starts: Sequence[int]) -> Tensor:
        """Feed each row's tokens from its start position on; return the last hidden states [rows, hidden].

        Rows are padded on the right. Padding writes keys after a row's end, which later tokens overwrite before they
        are read. A single row longer than `MAX_PREFILL_TOKENS` runs in chunks.

        Args:
            first: Slot of the first row; the others follow.
            tokens: All tokens of each row.
            starts: Number of tokens of each row whose keys and values are already in its slot.
        """
        pieces = [list(ids[start:]) for ids, start in zip(tokens, starts, strict=True)]
        longest = max(map(len, pieces))
        ids = torch.tensor([piece + [0] * (longest - len(piece)) for piece in pieces], device=self.device)
        positions = torch.tensor(starts, device=self.device)[:, None] + torch.arange(longest, device=self.device)
        # Clamping affects only the padding of shorter rows. That padding may overwrite a row's last position, which is
        # never read, because the last token of a completion is not fed back.
        positions.clamp_(max=self.cache.size.capacity - 1)
        chunk = MAX_PREFILL_TOKENS if len(pieces) == 1 else longest  # several rows together never exceed the maximum
        for begin in range(0, longest, chunk):
            part = positions[:, begin : begin + chunk]
            plain = begin == 0 and not any(starts)
            keys = part.shape[1] if plain else min(max(starts) + begin + part.shape[1], self.cache.size.capacity)
            mask = None if plain else (torch.arange(keys, device=self.device) <= part[..., None])[:, None]
            hidden = self._run_decoder(self.model.model, first, ids[:, begin : begin + chunk], part, keys, mask)
        ends = torch.tensor([len(piece) - 1 - begin for piece in pieces], device=self.device)
        return hidden[torch.arange(len(pieces), device=self.device), ends]

    def decode(self, newest: Sequence[int], places: Sequence[int]) -> Tensor:
        """Feed one token of each row and return the hidden states [rows, hidden]; the rows are in the first slots.

        Args:
            newest: The token of each row.
            places: The token's position in each row; the positions before it are already in the slot.
        """
        count = len(newest)
        idle = 0 if self.compiled is None else self.cache.size.slots - count
        table = [[*newest, *[0] * idle], [*places, *[0] * idle]]
        ids, positions = torch.tensor(table, device=self.device)[..., None].unbind()
        keys = max(places) + 1
        if self.compiled is not None:
            keys = min(_round_up_to_bucket(keys), self.cache.size.capacity)
        mask = (torch.arange(keys, device=self.device) <= positions)[:, None, None]
        decoder = self.model.model if self.compiled is None else self.compiled
        by_groups = self.compiled is None and self.device.type == "cpu"
        attention = GroupedRowAttention(group_rows_by_length([place + 1 for place in places])) if by_groups else None
        return self._run_decoder(decoder, 0, ids, positions, keys, mask, attention=attention)[:count, -1]

    def _run_decoder(
        self,
        model: Any,
        first: int,
        ids: Tensor,
        positions: Tensor,
        keys: int,
        mask: Tensor | None,
        **settings: Any,
    ) -> Tensor:
        """Run the decoder once on ids [rows, tokens]; return the hidden states [rows, tokens, hidden]."""
        rows = (first, first + len(ids))
        slots = torch.arange(*rows, device=self.device)[:, None]
        self.cache.window = CacheWindow(rows, slots, positions, keys)
        output = model(
            input_ids=ids, position_ids=positions, attention_mask=mask, past_key_values=self.cache, **settings
        )
        hidden: Tensor = output.last_hidden_state
        return hidden


def _round_up_to_bucket(keys: int) -> int:
    """Round `keys` up to a power of two or 1.5 times a power of two, so that the decoder is compiled for few shapes.

    Example:
        Up to 256 keys: 256. 257 to 384: 384.
        385 to 512: 512. 513 to 768: 768.
        A row that grows to 4096 keys needs 9 shapes.
    """
    bucket = MIN_BUCKET_KEYS
    while bucket < keys:
        bucket = bucket * 3 // 2 if bucket & (bucket - 1) == 0 else bucket * 4 // 3
    return bucket
