"""Run the model for a changing set of rows, each in its own slot of the cache."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from baichuan_core.generation.engines.native.attention import AttentionByGroups, group_rows_by_length
from baichuan_core.generation.engines.native.cache import CacheSize, SlotCache, Window, round_up_to_step
from baichuan_core.generation.engines.native.passes import MAX_PREFILL_TOKENS, PASS_OVERHEAD_TOKENS, group_into_passes
from baichuan_core.generation.engines.native.prefixes import Prefix
from baichuan_core.generation.engines.native.schedule import Row
from baichuan_core.model import BaichuanForCausalLM

MIN_BUCKET = 256  # keys; the smallest number that the compiled decoder is called with

Item = TypeVar("Item")


class Slots:
    """The model with a cache slot for each active row, which computes the logits of their next tokens.

    Active rows always occupy the first slots, so that no time is spent on empty ones. `join` computes the prompts of
    new rows, `decode` computes one more token for every row, and `leave` moves the last row into the freed slot. The
    caller appends the token chosen from the logits to `Row.tokens`.

    Example:
        join([A, B, C])   slots: A B C   logits [3, vocab] of the first tokens of A, B and C
        decode()          slots: A B C   logits [3, vocab] of their second tokens
        leave(0)          slots: C B     C moves to slot 0

    Attributes:
        rows: The active rows; the index is the slot.
    """

    def __init__(self, model: BaichuanForCausalLM, compiled: Any, *, kept_tokens: int) -> None:
        """Create an empty cache; memory is allocated by `reserve`.

        Args:
            model: The model, in eval mode.
            compiled: The compiled decoder for single-token steps, or None. It always runs with all slots and with few
                different numbers of keys, so that it is compiled for few shapes. This costs little on a GPU, where a
                step takes as long for few rows as for many.
            kept_tokens: Maximum number of tokens of shared prefixes to keep for later rows; the most recently used
                prefix is always kept.
        """
        self.model = model
        self.device = model.device
        self.rows: list[Row] = []
        self._cache = SlotCache(model.config.num_hidden_layers, CacheSize(0, 0))
        self._history = torch.zeros(0, 0, dtype=torch.int64, device=self.device)
        self._compiled = compiled
        self._kept_tokens = kept_tokens
        self._kept: list[Prefix] = []  # saved prefixes, the most recently used one last

    @property
    def has_saved_prefixes(self) -> bool:
        """Whether shared prefixes of prompts are in memory."""
        return any(one.saved is not None for one in self._kept)

    def history(self, first: int = 0) -> Tensor:
        """Return the tokens of the rows from slot `first` on, [rows, longest], padded with each row's first token."""
        longest = max(len(row.tokens) for row in self.rows[first:])
        return self._history[first : len(self.rows), :longest]

    @torch.inference_mode()
    def reserve(self, joining: Sequence[Row], most: int) -> None:
        """Grow the cache if the joining rows do not fit.

        Args:
            joining: Rows that are about to join.
            most: Number of slots to allocate, the maximum that may be needed while these rows run.
        """
        needed = round_up_to_step(max(row.max_tokens for row in (*self.rows, *joining)))
        rows = len(self.rows) + len(joining)
        size = self._cache.size
        if rows > size.slots or needed > size.capacity:
            length = max((len(row.tokens) for row in self.rows), default=0)
            self._cache.resize(CacheSize(max(rows, most), needed), len(self.rows), length)
            self._history = self._history.new_zeros(max(rows, most), needed)
            for slot, row in enumerate(self.rows):
                self._record_history(slot, row)

    @torch.inference_mode()
    def join(self, joining: Sequence[Row]) -> Tensor:
        """Compute the prompts of new rows in the next free slots.

        Shared prefixes are computed once and copied into the slots. The remaining tokens run in as few forward passes
        as padding makes worthwhile (see `group_into_passes`), so the order of rows may change.

        Args:
            joining: The new rows; `reserve` must have been called for them.

        Returns:
            Logits [rows, vocab] of each row's next token, in the order of the new entries of `self.rows`.
        """
        self._compute_prefixes(joining)
        logits = []
        for group in self._group_for_passes(joining, [len(row.tokens) - _prefix_length(row) for row in joining]):
            first = len(self.rows)
            for offset, row in enumerate(group):
                if row.prefix:
                    self._load_prefix(row.prefix, first + offset)
            hidden = self._prefill(first, [row.tokens for row in group], [_prefix_length(row) for row in group])
            logits.append(self.model.logits(hidden, decoding=True))
            for offset, row in enumerate(group):
                self._record_history(first + offset, row)
                if row.prefix:
                    row.prefix.release()
                    row.prefix = None  # a row that joins again later has more tokens than the prefix
            self.rows += group
        self._evict_prefixes(self._kept_tokens, least=1)
        return torch.cat(logits)

    @torch.inference_mode()
    def decode(self) -> Tensor:
        """Feed the newest token of every row and return the logits [rows, vocab] of the next one."""
        count = len(self.rows)
        slots = count if self._compiled is None else self._cache.size.slots
        idle = slots - count
        newest = [row.tokens[-1] for row in self.rows] + [0] * idle
        places = [len(row.tokens) - 1 for row in self.rows] + [0] * idle
        ids, positions = torch.tensor([newest, places], device=self.device)[..., None].unbind()
        self._history[:count].scatter_(1, positions[:count], ids[:count])
        keys = max(places) + 1
        if self._compiled is not None:
            keys = min(_round_up_to_bucket(keys), self._cache.size.capacity)
        mask = (torch.arange(keys, device=self.device) <= positions)[:, None, None]
        decoder = self.model.model if self._compiled is None else self._compiled
        by_groups = self._compiled is None and self.device.type == "cpu"
        attention = AttentionByGroups(group_rows_by_length([place + 1 for place in places])) if by_groups else None
        hidden = self._run_decoder(decoder, 0, ids, positions, keys, mask, attention=attention)[:count, -1]
        return self.model.logits(hidden, decoding=True)

    @torch.inference_mode()
    def leave(self, slot: int) -> None:
        """Remove a row; the last row moves into its slot."""
        last = self.rows.pop()
        if slot < len(self.rows):
            self._cache.move(len(self.rows), slot, len(last.tokens))
            self._history[slot] = self._history[len(self.rows)]
            self.rows[slot] = last

    def clear(self) -> list[Row]:
        """Remove and return all rows, and free the memory of the cache and of shared prefixes."""
        rows, self.rows = self.rows, []
        self._evict_prefixes(tokens=0, least=0)
        self._cache = SlotCache(self.model.config.num_hidden_layers, CacheSize(0, 0))
        return rows

    def _compute_prefixes(self, joining: Sequence[Row]) -> None:
        """Compute and save the shared prefixes of the joining rows, the shorter ones first.

        A prefix may extend a shorter one (its parent), so prefixes are computed level by level: `ready` contains those
        whose parent is already saved. The slots of the joining rows serve as temporary storage.
        """
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
            for group in self._group_for_passes(ready, lengths):
                first = len(self.rows)  # the slots of the joining rows, which are at least as many as the prefixes
                for offset, prefix in enumerate(group):
                    if prefix.parent:
                        self._load_prefix(prefix.parent, first + offset)
                starts = [len(one.parent.tokens) if one.parent else 0 for one in group]
                self._prefill(first, [one.tokens for one in group], starts)
                for offset, prefix in enumerate(group):
                    prefix.saved = self._cache.save(first + offset, len(prefix.tokens))
                    self._kept.append(prefix)
                    if prefix.parent:
                        prefix.parent.release()
            done = {id(one) for one in ready}
            missing = {key: one for key, one in missing.items() if key not in done}
            ready = [one for one in missing.values() if not one.parent or one.parent.saved is not None]

    def _group_for_passes(self, items: Sequence[Item], lengths: Sequence[int]) -> list[list[Item]]:
        groups = group_into_passes(
            lengths, pass_overhead=PASS_OVERHEAD_TOKENS.get(self.device.type, PASS_OVERHEAD_TOKENS["cuda"])
        )
        return [[items[i] for i in group] for group in groups]

    def _record_history(self, slot: int, row: Row) -> None:
        self._history[slot] = row.tokens[0]
        self._history[slot, : len(row.tokens)] = torch.tensor(row.tokens, device=self.device)

    def _load_prefix(self, prefix: Prefix, slot: int) -> None:
        assert prefix.saved is not None  # noqa: S101 - ensured by `_compute_prefixes`
        self._cache.restore(prefix.saved, [slot])
        self._kept.remove(prefix)
        self._kept.append(prefix)

    def _evict_prefixes(self, tokens: int, *, least: int) -> None:
        """Evict saved prefixes, the least recently used first, until at most `tokens` tokens are left.

        At least the `least` most recently used prefixes are kept.
        """
        self._kept = [one for one in self._kept if one.saved is not None]
        held = sum(len(one.tokens) for one in self._kept)
        while len(self._kept) > least and held > tokens:
            oldest = self._kept.pop(0)
            held -= len(oldest.tokens)
            oldest.evict()

    def _prefill(self, first: int, tokens: Sequence[Sequence[int]], starts: Sequence[int]) -> Tensor:
        """Compute the tokens of rows from given positions on, and return the last hidden states [rows, hidden].

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
        # Only padding of shorter rows is clamped. It may overwrite a row's last position, which is never read: the last
        # token of a completion is not fed back.
        positions.clamp_(max=self._cache.size.capacity - 1)
        chunk = MAX_PREFILL_TOKENS if len(pieces) == 1 else longest  # several rows together never exceed it
        for begin in range(0, longest, chunk):
            part = positions[:, begin : begin + chunk]
            plain = begin == 0 and not any(starts)
            keys = part.shape[1] if plain else min(max(starts) + begin + part.shape[1], self._cache.size.capacity)
            mask = None if plain else (torch.arange(keys, device=self.device) <= part[..., None])[:, None]
            hidden = self._run_decoder(self.model.model, first, ids[:, begin : begin + chunk], part, keys, mask)
        ends = torch.tensor([len(piece) - 1 - begin for piece in pieces], device=self.device)
        return hidden[torch.arange(len(pieces), device=self.device), ends]

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
        """Run the decoder once: ids [rows, tokens] to hidden states [rows, tokens, hidden]."""
        rows = (first, first + len(ids))
        slots = torch.arange(*rows, device=self.device)[:, None]
        self._cache.window = Window(rows, slots, positions, keys)
        output = model(
            input_ids=ids, position_ids=positions, attention_mask=mask, past_key_values=self._cache, **settings
        )
        hidden: Tensor = output.last_hidden_state
        return hidden


def _prefix_length(row: Row) -> int:
    return len(row.prefix.tokens) if row.prefix else 0


def _round_up_to_bucket(keys: int) -> int:
    """Round up to a power of two or 1.5 times one (256, 384, 512, 768, ...), so that few shapes are compiled."""
    bucket = MIN_BUCKET
    while bucket < keys:
        bucket = bucket * 3 // 2 if bucket & (bucket - 1) == 0 else bucket * 4 // 3
    return bucket
