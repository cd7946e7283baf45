"""Continuous batching: completions join the batch when there is room, and leave it when they finish or are aborted."""

from collections.abc import Callable, Sequence
from itertools import count

import torch
from torch import Tensor

from baichuan_core.errors import BaichuanError, CheckpointError, UnsupportedError
from baichuan_core.free_memory import release_memory
from baichuan_core.generation.engines.contract import Capacity, EncodedRequest
from baichuan_core.generation.engines.native.prefixes import find_common_prefixes
from baichuan_core.generation.engines.native.sampler import Sampler, compute_logprobs
from baichuan_core.generation.engines.native.schedule import Row, RowScheduler
from baichuan_core.generation.engines.native.slots import SlotBatch
from baichuan_core.generation.engines.outputs import CompletionOutput, StepOutputs, TokenLogprobs
from baichuan_core.generation.options import GenerationOptions
from baichuan_core.generation.transcript import Transcript
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.out_of_memory import is_out_of_memory
from baichuan_core.tokenizer import BaichuanTokenizer

MIN_STEPS_TO_COMPILE = 1000  # compilation pays for itself after about this many steps
PREFIX_CACHE_DIVISOR = 4  # saved prefixes may take up to a quarter of `batch_tokens`; `footprint` assumes the same


class NativeEngine:
    """A loaded model with an open batch, see `Engine`.

    Attributes:
        model: The model.
        free_others: Called when even a single row does not fit in memory; frees the memory that other engines use on
            this device, and returns whether there was any to free.
    """

    free_others: Callable[[], bool]

    def __init__(
        self,
        model: BaichuanForCausalLM,
        tokenizer: BaichuanTokenizer,
        settings: GenerationOptions,
        end_token_ids: frozenset[int],
        *,
        compiled: bool | None = None,
    ) -> None:
        """Create an engine.

        Args:
            model: The model, in eval mode.
            tokenizer: The model's tokenizer.
            settings: Options, of which only `batch_size` and `batch_tokens` are used here.
            end_token_ids: Tokens that end a completion.
            compiled: Whether to decode with compiled code, which on a GPU uses CUDA graphs to avoid launching every
                kernel separately. With None, decoding on a GPU is compiled once enough steps have run or are expected.
        """
        self.model = model
        self.free_others = lambda: False
        self._tokenizer = tokenizer
        self._settings = settings
        self._end_token_ids = end_token_ids
        self._on_gpu = model.device.type == "cuda"
        self._steps_to_compile = MIN_STEPS_TO_COMPILE if compiled is None else 0
        self._may_compile = self._on_gpu if compiled is None else compiled
        slots, tokens = settings.batch_size, settings.batch_tokens
        # On a GPU a forward pass takes as long for one prompt as for several, and an empty slot costs nothing.
        min_joining = max(1, slots // 8) if self._on_gpu else 1
        self._schedule = RowScheduler(slots=slots, tokens=tokens, min_joining=min_joining)
        self._slots = SlotBatch(model, kept_tokens=tokens // PREFIX_CACHE_DIVISOR)
        self._rows: dict[int, Row] = {}  # all waiting and running rows by id
        self._arrived: list[Row] = []  # rows that have been added since the last step
        self._arrivals = 0  # number of groups of rows that have been queued
        self._ids = count()
        self._sampler: Sampler | None = None  # for all active rows; recreated when they change

    @property
    def is_idle(self) -> bool:
        """See `Engine.is_idle`."""
        return not self._rows

    def prepare(self, capacity: Capacity) -> None:
        """See `Engine.prepare`; nothing to do, because memory is allocated when rows start."""

    def wake(self) -> None:
        """See `Engine.wake`; nothing to do, because a step never waits."""

    def close(self) -> None:
        """See `Engine.close`."""
        for request_id in list(self._rows):
            self.abort(request_id)
        self._slots.clear()
        release_memory()

    def add_request(self, request: EncodedRequest, *, stream: bool = False) -> int:
        """See `Engine.add_request`."""
        transcript = Transcript(self._tokenizer, request, self._end_token_ids)
        row = Row(next(self._ids), request, transcript, list(request.prompt_ids), stream, may_save=request.may_continue)
        self._rows[row.id] = row
        self._arrived.append(row)
        return row.id

    def abort(self, request_id: int) -> None:
        """See `Engine.abort`."""
        row = self._rows.pop(request_id, None)
        if row is None:
            return
        if row in self._arrived:
            self._arrived.remove(row)
        elif row in self._slots.rows:
            self._remove_row(self._slots.rows.index(row))
        else:
            self._schedule.remove(row)

    def step(self) -> StepOutputs:
        """See `Engine.step`: add the waiting rows that can join, then decode one token for every row."""
        self._queue_arrived_rows()
        joining = self._schedule.take_joining_rows(self._slots.rows)
        outputs: list[CompletionOutput] = []
        out_of_memory = False
        try:
            if joining:
                outputs += self._add_joining_rows(joining)
                joining = []
            if self._slots.rows:
                outputs += self._decode_rows()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            out_of_memory = True  # the tensors of the failed pass are freed only after this block
        if out_of_memory:
            outputs += self._halve_batch(joining)
        if self.is_idle:
            self._schedule.slots = self._settings.batch_size  # more memory may be free when the next request arrives
        return StepOutputs(tuple(outputs))

    def _queue_arrived_rows(self) -> None:
        """Queue the rows that were added since the last step, after finding the prefixes that they share."""
        if not self._arrived:
            return
        rows, self._arrived = self._arrived, []
        self._arrivals += 1
        prefixes = find_common_prefixes([row.request.prompt_ids for row in rows])
        for row, prefix in zip(rows, prefixes, strict=True):
            row.arrival, row.prefix = self._arrivals, prefix
        self._schedule.add(rows)
        self._steps_to_compile -= sum(row.request.limit for row in rows) // min(len(rows), self._settings.batch_size)
        if self._may_compile and self._slots.cached_model.compiled is None and self._steps_to_compile <= 0:
            mode = "reduce-overhead" if self._on_gpu else "default"
            self._slots.cached_model.compiled = torch.compile(self.model.model, mode=mode)

    def _add_joining_rows(self, joining: Sequence[Row]) -> list[CompletionOutput]:
        before = len(self._slots.rows)
        self._slots.reserve_slots(joining, slots=self._choose_slot_count([*self._slots.rows, *joining]))
        logits = self._slots.add_rows(joining)
        sampler = self._create_sampler(self._slots.rows[before:])
        self._sampler = None
        return self._choose_tokens(logits, sampler, first=before)

    def _choose_slot_count(self, rows: Sequence[Row]) -> int:
        """Return the number of slots to allocate if `rows` do not fit into the existing ones.

        Waiting rows are counted too. If requests keep arriving, the number of slots is at least doubled, so that
        reallocation is rare.
        """
        wanted = len(rows) + self._schedule.count_waiting_rows()
        to_come = 2 * self._slots.allocated_slots if self._arrivals > 1 else 0
        return min(self._schedule.compute_max_rows(rows), max(wanted, to_come))

    def _decode_rows(self) -> list[CompletionOutput]:
        logits = self._slots.decode()
        self._sampler = self._sampler or self._create_sampler(self._slots.rows)
        return self._choose_tokens(logits, self._sampler, first=0)

    def _create_sampler(self, rows: Sequence[Row]) -> Sampler:
        return Sampler([row.request.sampling for row in rows], self._slots.device)

    @torch.inference_mode()
    def _choose_tokens(self, logits: Tensor, sampler: Sampler, *, first: int) -> list[CompletionOutput]:
        """Choose the next token for each row from slot `first` on, and remove the rows that have finished."""
        rows = self._slots.rows[first:]
        history = self._slots.get_history(first) if sampler.penalized else None
        completions = [row.transcript.ids for row in rows]
        seeds, steps = [row.request.seed for row in rows], [len(ids) for ids in completions]
        tokens = sampler.choose_tokens(logits, history, seeds, steps, completions).tolist()
        wanted = [None if token < 0 else row.request.logprobs for row, token in zip(rows, tokens, strict=True)]
        logprobs = compute_logprobs(logits, tokens, wanted)
        outputs = [_add_token(row, *news) for row, *news in zip(rows, tokens, logprobs, strict=True)]
        for slot in reversed(range(first, first + len(rows))):
            if outputs[slot - first].is_last:
                del self._rows[self._slots.rows[slot].id]
                self._remove_row(slot)
        return outputs

    def _remove_row(self, slot: int) -> None:
        self._slots.remove_row(slot)
        self._sampler = None

    def requeue_rows_and_free_memory(self) -> bool:
        """Put all rows back in the queue, keeping their tokens so far, and free the memory of their keys and values.

        Returns:
            Whether anything was freed.
        """
        has_memory = bool(self._slots.rows or self._slots.allocated_slots or self._slots.prefixes.tokens)
        self._schedule.requeue(self._slots.clear())
        self._sampler = None
        release_memory()
        return has_memory

    def _halve_batch(self, joining: Sequence[Row]) -> list[CompletionOutput]:
        """Put all rows back in the queue, keeping their tokens so far, and halve the number of rows that run at once.

        Returns:
            An output with the error of a row that does not fit even alone and without saved prefixes, otherwise none.
        """
        had_saved_prefixes = bool(self._slots.prefixes.tokens)
        rows = list({row.id: row for row in (*self._slots.clear(), *joining)}.values())
        self._sampler = None
        release_memory()  # the cache and its layers reference each other, so only garbage collection frees them
        self._schedule.slots = max(1, len(rows) // 2)
        if len(rows) == 1:
            (alone,) = rows
            if not had_saved_prefixes and not alone.prefix and not self.free_others():
                del self._rows[alone.id]
                return [CompletionOutput(alone.id, 0, error=_build_out_of_memory_error())]
            alone.prefix, alone.may_save = None, False  # this row needs all the memory for itself
        self._schedule.requeue(rows)
        return []


def _add_token(row: Row, token: int, logprobs: TokenLogprobs | None) -> CompletionOutput:
    """Add a token to a row and return the resulting output."""
    if token < 0:
        row.may_save = False
        return CompletionOutput(row.id, 0, error=_build_nan_error())
    row.tokens.append(token)
    ended = row.transcript.add(token, logprobs)
    return CompletionOutput(
        row.id,
        1,
        row.transcript.take_delta() if row.stream else None,
        row.transcript.build_completion() if ended else None,
    )


def _build_nan_error() -> BaichuanError:
    return CheckpointError(
        "the model produces NaN: its weights are damaged, or its activations are too large for float16; copy"
        " the checkpoint again, or use dtype 'bfloat16' or 'float32'"
    )


def _build_out_of_memory_error() -> BaichuanError:
    return UnsupportedError(
        "there is not enough memory for a single completion: lower max_new_tokens, shorten the prompt,"
        " quantize the model, or use a device with more memory"
    )
