"""The model with a slot for each row that is on its way: prompts go in, one token a row comes out."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from baichuan_core.generation.engines.native.attention import AttentionByGroups, row_groups
from baichuan_core.generation.engines.native.cache import Room, SlotCache, Window, rounded_up
from baichuan_core.generation.engines.native.passes import PREFILL_TOKENS, TOKENS_OF_A_PASS, groups_for_passes
from baichuan_core.generation.engines.native.prefixes import Prefix
from baichuan_core.generation.engines.native.schedule import Row
from baichuan_core.model import BaichuanForCausalLM

LEAST_BUCKET = 256

Thing = TypeVar("Thing")


class Slots:
    """Active rows stand in the first slots, so that nothing is computed for empty ones.

    Attributes:
        rows: The active rows, by slot.
    """

    def __init__(self, model: BaichuanForCausalLM, compiled: Any, *, kept_tokens: int) -> None:
        """Makes a cache without room.

        Args:
            model: In eval mode.
            compiled: The decoder as compiled code, for steps of one token. It is given all slots and few different
                numbers of keys, so that few shapes occur; on a GPU a step takes as long for few rows as for many.
            kept_tokens: Most tokens of common beginnings that are kept for rows to come, but for the newest one.
        """
        self.model = model
        self.device = model.device
        self.rows: list[Row] = []
        self._cache = SlotCache(model.config.num_hidden_layers, Room(0, 0))
        self._history = torch.zeros(0, 0, dtype=torch.int64, device=self.device)
        self._compiled = compiled
        self._kept_tokens = kept_tokens
        self._kept: list[Prefix] = []  # those that are saved, the last one used at the end

    @property
    def keeps_beginnings(self) -> bool:
        """Whether common beginnings of prompts take memory."""
        return any(one.saved is not None for one in self._kept)

    def history(self, first: int = 0) -> Tensor:
        """Tokens of the rows from a slot on, [rows, longest], shorter rows filled up with their first token."""
        longest = max(len(row.tokens) for row in self.rows[first:])
        return self._history[first : len(self.rows), :longest]

    @torch.inference_mode()
    def make_room(self, joining: Sequence[Row], most: int) -> None:
        """Sees to it that the rows have a place, for no more than ``most`` rows side by side."""
        needed = rounded_up(max(row.longest for row in (*self.rows, *joining)))
        rows = len(self.rows) + len(joining)
        room = self._cache.room
        if rows > room.slots or needed > room.capacity:
            length = max((len(row.tokens) for row in self.rows), default=0)
            self._cache.resize(Room(max(rows, most), needed), len(self.rows), length)
            self._history = self._history.new_zeros(max(rows, most), needed)
            for slot, row in enumerate(self.rows):
                self._remember(slot, row)

    @torch.inference_mode()
    def join(self, joining: Sequence[Row]) -> Tensor:
        """Computes the tokens of new rows, gives them the next slots, and returns their logits [rows, vocab].

        The order of the new rows is that of ``self.rows`` afterwards.
        """
        self._compute_prefixes(joining)
        logits = []
        for group in self._passes(joining, [len(row.tokens) - _known(row) for row in joining]):
            first = len(self.rows)
            for offset, row in enumerate(group):
                if row.prefix:
                    self._load(row.prefix, first + offset)
            hidden = self._fill(first, [row.tokens for row in group], [_known(row) for row in group])
            logits.append(self.model.logits(hidden, decoding=True))
            for offset, row in enumerate(group):
                self._remember(first + offset, row)
                if row.prefix:
                    row.prefix.used()
                    row.prefix = None  # a row that has to join again starts with more than the prefix
            self.rows += group
        self._keep_few(self._kept_tokens, least=1)
        return torch.cat(logits)

    @torch.inference_mode()
    def decode(self) -> Tensor:
        """Feeds the newest token of every row; logits [rows, vocab] of the next."""
        count = len(self.rows)
        slots = count if self._compiled is None else self._cache.room.slots
        idle = slots - count
        newest = [row.tokens[-1] for row in self.rows] + [0] * idle
        places = [len(row.tokens) - 1 for row in self.rows] + [0] * idle
        ids, positions = torch.tensor([newest, places], device=self.device)[..., None].unbind()
        self._history[:count].scatter_(1, positions[:count], ids[:count])
        keys = max(places) + 1
        if self._compiled is not None:
            keys = min(_bucket(keys), self._cache.room.capacity)
        mask = (torch.arange(keys, device=self.device) <= positions)[:, None, None]
        decoder = self.model.model if self._compiled is None else self._compiled
        by_groups = self._compiled is None and self.device.type == "cpu"
        attention = AttentionByGroups(row_groups([place + 1 for place in places])) if by_groups else None
        hidden = self._pass(decoder, 0, ids, positions, keys, mask, attention=attention)[:count, -1]
        return self.model.logits(hidden, decoding=True)

    @torch.inference_mode()
    def leave(self, slot: int) -> None:
        """Ends a row; the last one moves into its slot."""
        last = self.rows.pop()
        if slot < len(self.rows):
            self._cache.move(len(self.rows), slot, len(last.tokens))
            self._history[slot] = self._history[len(self.rows)]
            self.rows[slot] = last

    def empty(self) -> list[Row]:
        """Ends all rows, gives their memory and that of common beginnings back and says which rows they were."""
        rows, self.rows = self.rows, []
        self._keep_few(tokens=0, least=0)
        self._cache = SlotCache(self.model.config.num_hidden_layers, Room(0, 0))
        return rows

    def _compute_prefixes(self, joining: Sequence[Row]) -> None:
        """Fills and saves the common beginnings that the rows go on from, the shorter ones first."""
        missing = {}
        for row in joining:
            prefix = row.prefix
            while prefix and prefix.saved is None:
                missing[id(prefix)] = prefix
                prefix = prefix.parent
        ready = [one for one in missing.values() if not one.parent or one.parent.saved is not None]
        while ready:
            known = [len(one.parent.tokens) if one.parent else 0 for one in ready]
            lengths = [len(one.tokens) - start for one, start in zip(ready, known, strict=True)]
            for group in self._passes(ready, lengths):
                first = len(self.rows)  # the slots of the joining rows, which are at least as many
                for offset, prefix in enumerate(group):
                    if prefix.parent:
                        self._load(prefix.parent, first + offset)
                starts = [len(one.parent.tokens) if one.parent else 0 for one in group]
                self._fill(first, [one.tokens for one in group], starts)
                for offset, prefix in enumerate(group):
                    prefix.saved = self._cache.save(first + offset, len(prefix.tokens))
                    self._kept.append(prefix)
                    if prefix.parent:
                        prefix.parent.used()
            done = {id(one) for one in ready}
            missing = {key: one for key, one in missing.items() if key not in done}
            ready = [one for one in missing.values() if not one.parent or one.parent.saved is not None]

    def _passes(self, things: Sequence[Thing], lengths: Sequence[int]) -> list[list[Thing]]:
        groups = groups_for_passes(lengths, a_pass=TOKENS_OF_A_PASS.get(self.device.type, TOKENS_OF_A_PASS["cuda"]))
        return [[things[i] for i in group] for group in groups]

    def _remember(self, slot: int, row: Row) -> None:
        self._history[slot] = row.tokens[0]
        self._history[slot, : len(row.tokens)] = torch.tensor(row.tokens, device=self.device)

    def _load(self, prefix: Prefix, slot: int) -> None:
        assert prefix.saved is not None  # noqa: S101 - `_compute_prefixes` has seen to it
        self._cache.restore(prefix.saved, [slot])
        self._kept.remove(prefix)
        self._kept.append(prefix)

    def _keep_few(self, tokens: int, *, least: int) -> None:
        """Drops common beginnings, the one unused for longest first, down to so many tokens in all."""
        self._kept = [one for one in self._kept if one.saved is not None]
        held = sum(len(one.tokens) for one in self._kept)
        while len(self._kept) > least and held > tokens:
            oldest = self._kept.pop(0)
            held -= len(oldest.tokens)
            oldest.drop()

    def _fill(self, first: int, tokens: Sequence[Sequence[int]], starts: Sequence[int]) -> Tensor:
        """Computes tokens from ``starts`` on in the slots from ``first`` on; the last hidden states [rows, hidden].

        Rows are padded on the right. What padding writes is behind the row's end, where nothing is read before it is
        written again.
        """
        pieces = [list(ids[start:]) for ids, start in zip(tokens, starts, strict=True)]
        longest = max(map(len, pieces))
        ids = torch.tensor([piece + [0] * (longest - len(piece)) for piece in pieces], device=self.device)
        positions = torch.tensor(starts, device=self.device)[:, None] + torch.arange(longest, device=self.device)
        # The newest token of the longest row is never fed back, so nobody misses the last position.
        positions.clamp_(max=self._cache.room.capacity - 1)
        chunk = PREFILL_TOKENS if len(pieces) == 1 else longest  # several rows together are never longer
        for begin in range(0, longest, chunk):
            part = positions[:, begin : begin + chunk]
            plain = begin == 0 and not any(starts)
            keys = part.shape[1] if plain else min(max(starts) + begin + part.shape[1], self._cache.room.capacity)
            mask = None if plain else (torch.arange(keys, device=self.device) <= part[..., None])[:, None]
            hidden = self._pass(self.model.model, first, ids[:, begin : begin + chunk], part, keys, mask)
        ends = torch.tensor([len(piece) - 1 - begin for piece in pieces], device=self.device)
        return hidden[torch.arange(len(pieces), device=self.device), ends]

    def _pass(
        self,
        model: Any,
        first: int,
        ids: Tensor,
        positions: Tensor,
        keys: int,
        mask: Tensor | None,
        **settings: Any,
    ) -> Tensor:
        """One pass of the decoder: [rows, tokens] to hidden states [rows, tokens, hidden]."""
        rows = (first, first + len(ids))
        slots = torch.arange(*rows, device=self.device)[:, None]
        self._cache.window = Window(rows, slots, positions, keys)
        output = model(
            input_ids=ids, position_ids=positions, attention_mask=mask, past_key_values=self._cache, **settings
        )
        hidden: Tensor = output.last_hidden_state
        return hidden


def _known(row: Row) -> int:
    return len(row.prefix.tokens) if row.prefix else 0


def _bucket(keys: int) -> int:
    """The next power of two, or the one and a half of one."""
    bucket = LEAST_BUCKET
    while bucket < keys:
        bucket = bucket * 3 // 2 if bucket & (bucket - 1) == 0 else bucket * 4 // 3
    return bucket
