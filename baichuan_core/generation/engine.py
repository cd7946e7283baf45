"""A loaded model that answers encoded requests batch by batch."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from baichuan_core.generation.batching import EncodedRequest, batches
from baichuan_core.generation.options import GenerationOptions
from baichuan_core.generation.sampling import RefuseNotANumber, sampling_processors
from baichuan_core.generation.stopping import FinishReason, RowEnds, cut_at_stop
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.progress import Progress, ProgressCallback
from baichuan_core.tokenizer import BaichuanTokenizer

STEPS_BETWEEN_REPORTS = 8
LOADED = 0.05  # share of the run that is over when the model is there


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer to one request.

    Attributes:
        text: What the model wrote, without end token and stop text.
        finish_reason: ``stop`` at an end token or stop text, ``length`` at the limit.
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens generated, the end token included.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


class Engine:
    """A loaded model that answers batches of encoded requests."""

    def __init__(
        self,
        model: BaichuanForCausalLM,
        tokenizer: BaichuanTokenizer,
        settings: GenerationOptions,
        end_token_ids: frozenset[int],
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self.end_token_ids = end_token_ids
        # What the checkpoint recommends is in the settings by now; transformers would mix it in again.
        self.model.generation_config = GenerationConfig(
            eos_token_id=sorted(end_token_ids), pad_token_id=tokenizer.pad_token_id
        )

    def run(self, requests: Sequence[EncodedRequest], on_progress: ProgressCallback) -> list[Completion]:
        """Completions in the order of ``requests``, whatever the batches."""
        completions: dict[int, Completion] = {}
        budget = sum(request.limit for request in requests)
        meter = _Meter(budget, on_progress)
        for batch in batches(requests, batch_tokens=self.settings.batch_tokens, batch_size=self.settings.batch_size):
            for request, completion in zip(batch, self._run_batch(batch, meter.on_step), strict=True):
                completions[request.index] = completion
                meter.finish(request.limit, completion.completion_tokens)
        return [completions[request.index] for request in requests]

    @torch.inference_mode()
    def _run_batch(self, batch: Sequence[EncodedRequest], on_step: Callable[[int], None]) -> Iterator[Completion]:
        input_ids, attention_mask = self._left_padded([request.prompt_ids for request in batch])
        ends = RowEnds(
            self.tokenizer,
            prompt_length=input_ids.shape[1],
            limits=[request.limit for request in batch],
            end_token_ids=self.end_token_ids,
            stop=self.settings.stop,
            on_step=lambda step: on_step(step * len(batch)),
        )
        sequences = self.model.generate(
            input_ids,
            attention_mask=attention_mask,
            do_sample=False,
            max_new_tokens=max(request.limit for request in batch),
            repetition_penalty=self.settings.repetition_penalty,
            logits_processor=self._processors(batch),
            stopping_criteria=StoppingCriteriaList([ends]),
        )
        generated = sequences[:, input_ids.shape[1] :].tolist()
        return (
            self._completion(request, row[:length], reason or "length")
            for request, row, length, reason in zip(batch, generated, ends.lengths, ends.reasons, strict=True)
        )

    def _left_padded(self, prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """``input_ids`` and ``attention_mask``, both [batch, longest], padding on the left."""
        longest = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id
        ids = [[pad] * (longest - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        device = self.model.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def _processors(self, batch: Sequence[EncodedRequest]) -> LogitsProcessorList:
        if not self.settings.do_sample:
            return LogitsProcessorList([RefuseNotANumber()])
        return sampling_processors(
            temperature=self.settings.temperature or 1.0,
            top_k=self.settings.top_k or 0,
            top_p=1.0 if self.settings.top_p is None else self.settings.top_p,
            seeds=[request.seed for request in batch],
            device=self.model.device,
        )

    def _completion(self, request: EncodedRequest, ids: list[int], reason: FinishReason) -> Completion:
        text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        return Completion(
            text=cut_at_stop(text, self.settings.stop),
            finish_reason=reason,
            prompt_tokens=len(request.prompt_ids),
            completion_tokens=len(ids),
        )


class _Meter:
    """Progress of a run in tokens of its budget, which ended rows give back."""

    def __init__(self, budget: int, on_progress: ProgressCallback) -> None:
        self.budget = budget
        self.on_progress = on_progress
        self.spent = 0
        self.generated = 0
        self.requests = 0
        self.calls = 0
        self.fraction = LOADED
        self.started = time.monotonic()

    def on_step(self, running: int) -> None:
        self.calls += 1
        if self.calls % STEPS_BETWEEN_REPORTS == 0:
            self._report(running)

    def finish(self, budget: int, generated: int) -> None:
        self.spent += budget
        self.generated += generated
        self.requests += 1
        self._report(0)

    def _report(self, running: int) -> None:
        share = min(1.0, (self.spent + running) / self.budget)
        self.fraction = max(self.fraction, LOADED + (1 - LOADED) * share)
        rate = (self.generated + running) / max(time.monotonic() - self.started, 1e-9)
        metrics = {"requests_done": float(self.requests), "tokens_per_second": rate}
        self.on_progress(Progress(self.fraction, "generating", metrics))
