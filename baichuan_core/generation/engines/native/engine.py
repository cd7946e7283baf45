"""Continuous batching: a row that ends is replaced by one that waits."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from baichuan_core.errors import UnsupportedError
from baichuan_core.free_memory import release_memory
from baichuan_core.generation.engines.contract import EncodedRequest, Step
from baichuan_core.generation.engines.native.prefixes import common_prefixes
from baichuan_core.generation.engines.native.sampler import Sampler, logprobs_of
from baichuan_core.generation.engines.native.schedule import Row, Schedule
from baichuan_core.generation.engines.native.slots import Slots
from baichuan_core.generation.options import GenerationOptions
from baichuan_core.generation.transcript import Transcript
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.out_of_memory import is_out_of_memory
from baichuan_core.tokenizer import BaichuanTokenizer

STEPS_WORTH_COMPILING = 1000  # what compiling spares in so many steps is about what it takes


class NativeEngine:
    """A loaded model that answers encoded requests side by side."""

    def __init__(
        self,
        model: BaichuanForCausalLM,
        tokenizer: BaichuanTokenizer,
        settings: GenerationOptions,
        end_token_ids: frozenset[int],
        *,
        compiled: bool | None = None,
    ) -> None:
        """Takes a model in eval mode.

        Args:
            model: The model.
            tokenizer: Its tokenizer.
            settings: Of which only ``batch_size`` and ``batch_tokens`` matter here.
            end_token_ids: Tokens that end a completion.
            compiled: Decode by compiled code, on a GPU as CUDA graphs, which spare the launch of each kernel; None
                does so on a GPU as soon as there have been or will be enough steps.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self.end_token_ids = end_token_ids
        self.on_gpu = model.device.type == "cuda"
        self._steps_to_compile = STEPS_WORTH_COMPILING if compiled is None else 0
        self._may_compile = self.on_gpu if compiled is None else compiled
        self._compiled: Any = None

    def run(self, requests: Sequence[EncodedRequest], *, stream: bool = False) -> Iterator[Step]:
        """See `Engine.run`."""
        if not requests:
            return
        prefixes = common_prefixes([request.prompt_ids for request in requests])
        rows = [
            Row(request, Transcript(self.tokenizer, request, self.end_token_ids), list(request.prompt_ids), prefix)
            for request, prefix in zip(requests, prefixes, strict=True)
        ]
        run = _Run(self, rows, stream=stream)
        while run.schedule or run.slots.rows:
            yield from run.steps()

    def decoder(self, requests: Sequence[EncodedRequest]) -> Any:
        """The compiled decoder if it pays for these requests and those before them, None if the plain one does."""
        self._steps_to_compile -= sum(one.limit for one in requests) // min(len(requests), self.settings.batch_size)
        if self._may_compile and self._compiled is None and self._steps_to_compile <= 0:
            mode = "reduce-overhead" if self.on_gpu else "default"
            self._compiled = torch.compile(self.model.model, mode=mode)
        return self._compiled


class _Run:
    """One call of `NativeEngine.run`."""

    def __init__(self, engine: NativeEngine, rows: Sequence[Row], *, stream: bool) -> None:
        slots, tokens = engine.settings.batch_size, engine.settings.batch_tokens
        # A GPU's pass takes as long for one prompt as for several, and an empty slot costs it nothing.
        worth_a_pass = max(1, slots // 8) if engine.on_gpu else 1
        self.schedule = Schedule(rows, slots=slots, tokens=tokens, worth_a_pass=worth_a_pass)
        compiled = engine.decoder([row.request for row in rows])
        self.slots = Slots(engine.model, compiled, kept_tokens=tokens // 4)
        self.stream = stream
        self.sampler: Sampler | None = None  # of all active rows, made anew when they change

    def steps(self) -> list[Step]:
        """Rows that can join do so, then every row gets a token."""
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
            out_of_memory = True  # what the failed pass holds is free only behind this block
        if out_of_memory:
            self._use_less_memory(joining)
        return steps

    def _join(self, joining: Sequence[Row]) -> Step:
        before = len(self.slots.rows)
        self.slots.make_room(joining, most=self.schedule.most_beside([*self.slots.rows, *joining]))
        logits = self.slots.join(joining)
        sampler = self._sampler_of(self.slots.rows[before:])
        self.sampler = None
        return self._take(logits, sampler, first=before)

    def _decode(self) -> Step:
        logits = self.slots.decode()
        self.sampler = self.sampler or self._sampler_of(self.slots.rows)
        return self._take(logits, self.sampler, first=0)

    def _sampler_of(self, rows: Sequence[Row]) -> Sampler:
        return Sampler([row.request.sampling for row in rows], self.slots.device)

    @torch.inference_mode()
    def _take(self, logits: Tensor, sampler: Sampler, *, first: int) -> Step:
        """The rows from slot ``first`` on get the token that follows from their logits; rows that end leave."""
        rows = self.slots.rows[first:]
        history = self.slots.history(first) if sampler.penalised else None
        steps = [len(row.transcript.ids) for row in rows]
        tokens = sampler.choose(logits, history, [row.request.seed for row in rows], steps).tolist()
        logprobs = logprobs_of(logits, tokens, [row.request.logprobs for row in rows])
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

    def _use_less_memory(self, joining: Sequence[Row]) -> None:
        """All rows wait again, and half as many run from now on. They go on with the tokens that they have."""
        beginnings_kept = self.slots.keeps_beginnings
        active = self.slots.empty()
        rows = {id(row): row for row in (*active, *joining)}
        if len(rows) == 1:
            (alone,) = rows.values()
            if not beginnings_kept and not alone.prefix:
                raise UnsupportedError(
                    "the memory does not suffice for one completion alone: lower max_new_tokens, shorten the prompt,"
                    " quantize the model, or use a device with more memory"
                )
            if alone.prefix:  # what is kept for others takes memory that this one needs
                alone.prefix.used()
                alone.prefix = None
        self.sampler = None
        self.schedule.slots = max(1, len(rows) // 2)
        self.schedule.give_back(rows.values())
        release_memory()  # a cache and its layers know each other, so that only this frees them
