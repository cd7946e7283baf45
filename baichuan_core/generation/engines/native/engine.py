"""Continuous batching: when a completion ends, a waiting one takes its place in the batch."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from baichuan_core.errors import UnsupportedError
from baichuan_core.free_memory import release_memory
from baichuan_core.generation.engines.contract import EncodedRequest, Step
from baichuan_core.generation.engines.native.prefixes import find_common_prefixes
from baichuan_core.generation.engines.native.sampler import Sampler, compute_logprobs
from baichuan_core.generation.engines.native.schedule import Row, Schedule
from baichuan_core.generation.engines.native.slots import Slots
from baichuan_core.generation.options import GenerationOptions
from baichuan_core.generation.transcript import Transcript
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.out_of_memory import is_out_of_memory
from baichuan_core.tokenizer import BaichuanTokenizer

MIN_STEPS_TO_COMPILE = 1000  # compiled code takes about this number of steps to save the time of compiling it


class NativeEngine:
    """A loaded model that completes encoded requests in batches."""

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
                kernel. None compiles on a GPU once enough steps have run or are about to run.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self.end_token_ids = end_token_ids
        self.on_gpu = model.device.type == "cuda"
        self._steps_to_compile = MIN_STEPS_TO_COMPILE if compiled is None else 0
        self._may_compile = self.on_gpu if compiled is None else compiled
        self._compiled: Any = None

    def run(self, requests: Sequence[EncodedRequest], *, stream: bool = False) -> Iterator[Step]:
        """See `Engine.run`."""
        if not requests:
            return
        prefixes = find_common_prefixes([request.prompt_ids for request in requests])
        rows = [
            Row(request, Transcript(self.tokenizer, request, self.end_token_ids), list(request.prompt_ids), prefix)
            for request, prefix in zip(requests, prefixes, strict=True)
        ]
        run = _Run(self, rows, stream=stream)
        while run.schedule or run.slots.rows:
            yield from run.run_steps()

    def get_decoder(self, requests: Sequence[EncodedRequest]) -> Any:
        """Return the compiled decoder if compiling pays off for the requests so far, else None."""
        self._steps_to_compile -= sum(one.limit for one in requests) // min(len(requests), self.settings.batch_size)
        if self._may_compile and self._compiled is None and self._steps_to_compile <= 0:
            mode = "reduce-overhead" if self.on_gpu else "default"
            self._compiled = torch.compile(self.model.model, mode=mode)
        return self._compiled


class _Run:
    """One call of `NativeEngine.run`."""

    def __init__(self, engine: NativeEngine, rows: Sequence[Row], *, stream: bool) -> None:
        slots, tokens = engine.settings.batch_size, engine.settings.batch_tokens
        # On a GPU a pass takes as long for one prompt as for several, and an empty slot costs nothing.
        min_joining = max(1, slots // 8) if engine.on_gpu else 1
        self.schedule = Schedule(rows, slots=slots, tokens=tokens, min_joining=min_joining)
        compiled = engine.get_decoder([row.request for row in rows])
        self.slots = Slots(engine.model, compiled, kept_tokens=tokens // 4)
        self.stream = stream
        self.sampler: Sampler | None = None  # for all active rows; recreated when they change

    def run_steps(self) -> list[Step]:
        """Add the waiting rows that can join, then decode one token for every row."""
        joining = self.schedule.take(self.slots.rows)
        steps: list[Step] = []
        out_of_memory = False
        try:
            if joining:
                steps.append(self._join(joining))
                joining = []
            if self.slots.rows:
                steps.append(self._decode())
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            out_of_memory = True  # the tensors of the failed pass are freed only after this block
        if out_of_memory:
            self._halve_batch(joining)
        return steps

    def _join(self, joining: Sequence[Row]) -> Step:
        before = len(self.slots.rows)
        self.slots.reserve(joining, most=self.schedule.max_rows_with([*self.slots.rows, *joining]))
        logits = self.slots.join(joining)
        sampler = self._create_sampler(self.slots.rows[before:])
        self.sampler = None
        return self._choose_tokens(logits, sampler, first=before)

    def _decode(self) -> Step:
        logits = self.slots.decode()
        self.sampler = self.sampler or self._create_sampler(self.slots.rows)
        return self._choose_tokens(logits, self.sampler, first=0)

    def _create_sampler(self, rows: Sequence[Row]) -> Sampler:
        return Sampler([row.request.sampling for row in rows], self.slots.device)

    @torch.inference_mode()
    def _choose_tokens(self, logits: Tensor, sampler: Sampler, *, first: int) -> Step:
        """Choose the next token of the rows from slot `first` on, and remove the rows that end."""
        rows = self.slots.rows[first:]
        history = self.slots.history(first) if sampler.penalised else None
        steps = [len(row.transcript.ids) for row in rows]
        tokens = sampler.choose(logits, history, [row.request.seed for row in rows], steps).tolist()
        logprobs = compute_logprobs(logits, tokens, [row.request.logprobs for row in rows])
        ended = []
        for slot, (row, token, logprob) in enumerate(zip(rows, tokens, logprobs, strict=True), start=first):
            row.tokens.append(token)
            if row.transcript.add(token, logprob):
                ended.append(slot)
        deltas = [row.transcript.delta() for row in rows] if self.stream else []
        completions = [self.slots.rows[slot].transcript.completion() for slot in ended]
        for slot in reversed(ended):
            self.slots.leave(slot)
            self.sampler = None
        return Step(len(tokens), tuple(filter(None, deltas)), tuple(completions))

    def _halve_batch(self, joining: Sequence[Row]) -> None:
        """Put all rows back in the queue, with their tokens so far, and halve the number of rows that run at once."""
        had_saved_prefixes = self.slots.has_saved_prefixes
        active = self.slots.clear()
        rows = {id(row): row for row in (*active, *joining)}
        if len(rows) == 1:
            (alone,) = rows.values()
            if not had_saved_prefixes and not alone.prefix:
                raise UnsupportedError(
                    "there is not enough memory for a single completion: lower max_new_tokens, shorten the prompt,"
                    " quantize the model, or use a device with more memory"
                )
            if alone.prefix:  # frees the keys and values that are kept for other rows
                alone.prefix.release()
                alone.prefix = None
        self.sampler = None
        self.schedule.slots = max(1, len(rows) // 2)
        self.schedule.requeue(rows.values())
        release_memory()  # the cache and its layers reference each other, so only this frees them
