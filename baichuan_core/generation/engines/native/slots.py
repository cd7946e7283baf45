"""The running rows, each in its own slot of the cache, and the prefixes saved for later rows."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from baichuan_core.generation.engines.native.cache import CacheSize, round_up_capacity
from baichuan_core.generation.engines.native.forward import CachedModel
from baichuan_core.generation.engines.native.passes import PASS_OVERHEAD_TOKENS, group_into_passes
from baichuan_core.generation.engines.native.prefix_cache import PrefixCache, PrefixMatch
from baichuan_core.generation.engines.native.prefixes import MIN_SAVED_TOKENS, Prefix
from baichuan_core.generation.engines.native.schedule import Row
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.out_of_memory import is_out_of_memory

Item = TypeVar("Item")


class SlotBatch:
    """The active rows, each in its own cache slot, with the model that computes the logits of their next tokens.

    Active rows always occupy the first slots, so that no time is spent on empty ones. `add_rows` prefills the prompts
    of new rows, `decode` computes one more token for every row, and `remove_row` moves the last row into the freed
    slot. The caller appends the token chosen from the logits to `Row.tokens`.

    Example:
        add_rows([A, B, C])   slots: A B C   logits [3, vocab] of the first tokens of A, B and C
        decode()              slots: A B C   logits [3, vocab] of their second tokens
        remove_row(0)         slots: C B     C moves to slot 0

    Attributes:
        rows: The active rows; the index is the slot.
        cached_model: The model with the cache.
        prefixes: Keys and values that are kept for later rows.
    """

    def __init__(self, model: BaichuanForCausalLM, *, kept_tokens: int) -> None:
        """Create an empty cache; memory is allocated by `reserve_slots`.

        Args:
            model: The model, in eval mode.
            kept_tokens: Maximum total number of prefix tokens to keep for later rows; the most recently used prefix
                that several rows share is always kept.
        """
        self.cached_model = CachedModel(model)
        self.device = model.device
        self.rows: list[Row] = []
        self.prefixes = PrefixCache(kept_tokens)
        self._history = torch.zeros(0, 0, dtype=torch.int64, device=self.device)

    @property
    def allocated_slots(self) -> int:
        """Number of slots for which memory is allocated."""
        return self.cached_model.cache.size.slots

    def get_history(self, first: int = 0) -> Tensor:
        """Return the tokens of the rows from slot `first` on, [rows, longest], padded with each row's first token."""
        longest = max(len(row.tokens) for row in self.rows[first:])
        return self._history[first : len(self.rows), :longest]

    @torch.inference_mode()
    def reserve_slots(self, joining: Sequence[Row], slots: int) -> None:
        """Reallocate the cache if the joining rows do not fit; it may then have fewer but longer slots.

        Args:
            joining: Rows that are about to join.
            slots: Number of slots to allocate, including some for rows that join later.

        Example:
            With 2 slots of 64 positions, two rows run and a row of 100 tokens joins.
            reserve([row], slots=4) allocates 4 slots of 128 positions and copies the two running rows;
            the next two rows of up to 128 tokens then join without reallocation.
        """
        needed = round_up_capacity(max(row.request.max_tokens for row in (*self.rows, *joining)))
        rows = len(self.rows) + len(joining)
        size = self.cached_model.cache.size
        if rows > size.slots or needed > size.capacity:
            length = max((len(row.tokens) for row in self.rows), default=0)
            self.cached_model.cache.resize(CacheSize(max(rows, slots), needed), len(self.rows), length)
            self._history = self._history.new_zeros(max(rows, slots), needed)
            for slot, row in enumerate(self.rows):
                self._record_history(slot, row)

    @torch.inference_mode()
    def add_rows(self, joining: Sequence[Row]) -> Tensor:
        """Prefill the prompts of new rows in the next free slots.

        Prefixes that several of these rows share are computed once and copied into their slots; prefixes saved by
        earlier rows are copied too. The remaining tokens are computed in one or more forward passes. Rows are grouped
        by length to limit padding (see `group_into_passes`), so their order may change.

        Args:
            joining: The new rows; `reserve_slots` must have been called for them.

        Returns:
            Logits [rows, vocab] of each row's next token, in the order of the new entries of `self.rows`.
        """
        self._compute_prefixes(joining)
        logits = []
        lengths = [len(row.tokens) - self._find_prefix(row.tokens, row.prefix).length for row in joining]
        for group in self._group_for_passes(joining, lengths):
            first = len(self.rows)
            starts = [
                self._load_prefix(self._find_prefix(row.tokens, row.prefix), first + i) for i, row in enumerate(group)
            ]
            hidden = self.cached_model.prefill(first, [row.tokens for row in group], starts)
            logits.append(self.cached_model.model.compute_logits(hidden, decoding=True))
            for offset, row in enumerate(group):
                self._record_history(first + offset, row)
                self._keep_prefix(row, first + offset, len(row.tokens))
                row.prefix = None  # needed only when the row first joins
            self.rows += group
        self.prefixes.evict()
        return torch.cat(logits)

    @torch.inference_mode()
    def decode(self) -> Tensor:
        """Feed the newest token of every row and return the logits [rows, vocab] of the next one."""
        newest = [row.tokens[-1] for row in self.rows]
        places = [len(row.tokens) - 1 for row in self.rows]
        ids, positions = torch.tensor([newest, places], device=self.device)[..., None].unbind()
        self._history[: len(self.rows)].scatter_(1, positions, ids)
        return self.cached_model.model.compute_logits(self.cached_model.decode(newest, places), decoding=True)

    @torch.inference_mode()
    def remove_row(self, slot: int) -> None:
        """Remove a row; the last row moves into its slot."""
        # The newest token has not been fed to the model, so it has no keys and values.
        self._keep_prefix(self.rows[slot], slot, len(self.rows[slot].tokens) - 1)
        last = self.rows.pop()
        if slot < len(self.rows):
            self.cached_model.cache.copy_slot(len(self.rows), slot, len(last.tokens))
            self._history[slot] = self._history[len(self.rows)]
            self.rows[slot] = last

    def clear(self) -> list[Row]:
        """Remove and return all rows, and free the memory of the cache and of the saved prefixes."""
        rows, self.rows = self.rows, []
        self.prefixes.clear()
        self.cached_model.free_cache()
        return rows

    def _keep_prefix(self, row: Row, slot: int, length: int) -> None:
        """Save the first `length` positions of a row for later prompts that start with them, if there is room."""
        if row.may_save and length <= self.prefixes.max_tokens:
            self._save_prefix(row.tokens[:length], slot)
            self.prefixes.evict()

    def _save_prefix(self, tokens: Sequence[int], slot: int) -> None:
        """Save the prefix `tokens` of a slot; if memory runs out, drop all saved prefixes so that rows can continue."""
        try:
            self.prefixes.add(tokens, lambda start, end: self.cached_model.cache.save(slot, start, end))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self.prefixes.clear()

    def _find_prefix(self, tokens: Sequence[int], shared: Prefix | None) -> PrefixMatch:
        """Find the saved prefix of `tokens`. The last token is always computed, because its logits are needed.

        A match of fewer than `MIN_SAVED_TOKENS` is ignored, because a forward pass without saved tokens needs no mask
        and is faster. A shorter prefix counts only if it was computed for several rows (`shared`).

        Example:
            The system prompt S (100 tokens) is saved and shared by all rows. For a row S+a,
            the match is S. A saved sequence that has only its first 20 tokens in common with S+a would be ignored.
        """
        match = self.prefixes.find(tokens[:-1])
        minimum = min(MIN_SAVED_TOKENS, len(shared.tokens)) if shared else MIN_SAVED_TOKENS
        return match if match.length >= minimum else PrefixMatch(0, ())

    def _load_prefix(self, match: PrefixMatch, slot: int) -> int:
        """Copy a saved prefix into a slot and return its number of tokens."""
        start = 0
        for segment, count in match.parts:
            self.cached_model.cache.restore(segment.states, slot, start, count)
            start += count
        return start

    def _compute_prefixes(self, joining: Sequence[Row]) -> None:
        """Compute and save the prefixes that the joining rows share with each other or with waiting rows.

        A prefix may extend a shorter one (its parent), so prefixes are computed level by level. The slots of the
        joining rows, which are at least as many as the prefixes of a level, serve as temporary storage.

        Example:
            The rows share S; two of them share S+E and two others S+F.
            Level 1: S in slot 0. Level 2: S is copied into slots 0 and 1, then E and F are computed after it.
            The rows then start from copies of S+E and S+F.
        """
        missing = {
            id(one): one
            for row in joining
            if row.prefix
            for one in row.prefix.iterate_with_ancestors()
            if not self._is_saved(one)
        }
        while missing:
            level = [one for one in missing.values() if one.parent is None or id(one.parent) not in missing]
            lengths = [len(one.tokens) - self._find_prefix(one.tokens, one.parent).length for one in level]
            for group in self._group_for_passes(level, lengths):
                first = len(self.rows)
                starts = [
                    self._load_prefix(self._find_prefix(one.tokens, one.parent), first + i)
                    for i, one in enumerate(group)
                ]
                self.cached_model.prefill(first, [one.tokens for one in group], starts)
                for offset, one in enumerate(group):
                    self._save_prefix(one.tokens, first + offset)
            missing = {key: one for key, one in missing.items() if all(one is not other for other in level)}

    def _is_saved(self, prefix: Prefix) -> bool:
        return self.prefixes.find(prefix.tokens).length == len(prefix.tokens)

    def _group_for_passes(self, items: Sequence[Item], lengths: Sequence[int]) -> list[list[Item]]:
        groups = group_into_passes(
            lengths, pass_overhead=PASS_OVERHEAD_TOKENS.get(self.device.type, PASS_OVERHEAD_TOKENS["cuda"])
        )
        return [[items[i] for i in group] for group in groups]

    def _record_history(self, slot: int, row: Row) -> None:
        self._history[slot] = row.tokens[0]
        self._history[slot, : len(row.tokens)] = torch.tensor(row.tokens, device=self.device)
