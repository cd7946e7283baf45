"""A loaded model that answers encoded requests batch by batch."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from baichuan_core.generation.batching import batches
from baichuan_core.generation.engines.contract import EncodedRequest, Step
from baichuan_core.generation.options import GenerationOptions
from baichuan_core.generation.sampling import RefuseNotANumber, sampling_processors
from baichuan_core.generation.stopping import RowEnds
from baichuan_core.generation.transcript import Transcript
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.tokenizer import BaichuanTokenizer


class NativeEngine:
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

    def run(self, requests: Sequence[EncodedRequest], *, stream: bool = False) -> Iterator[Step]:
        """See `Engine.run`."""
        for batch in batches(requests, batch_tokens=self.settings.batch_tokens, batch_size=self.settings.batch_size):
            transcripts = self._run_batch(batch)
            deltas = tuple(delta for one in transcripts if stream and (delta := one.delta()))
            completions = tuple(one.completion() for one in transcripts)
            yield Step(sum(len(one.ids) for one in transcripts), deltas, completions)

    @torch.inference_mode()
    def _run_batch(self, batch: Sequence[EncodedRequest]) -> list[Transcript]:
        input_ids, attention_mask = self._left_padded([list(request.prompt_ids) for request in batch])
        transcripts = [Transcript(self.tokenizer, request, self.end_token_ids) for request in batch]
        self.model.generate(
            input_ids,
            attention_mask=attention_mask,
            do_sample=False,
            max_new_tokens=max(request.limit for request in batch),
            repetition_penalty=batch[0].sampling.repetition_penalty,
            logits_processor=self._processors(batch),
            stopping_criteria=StoppingCriteriaList([RowEnds(transcripts)]),
        )
        return transcripts

    def _left_padded(self, prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """``input_ids`` and ``attention_mask``, both [batch, longest], padding on the left."""
        longest = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id
        ids = [[pad] * (longest - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        device = self.model.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def _processors(self, batch: Sequence[EncodedRequest]) -> LogitsProcessorList:
        sampling = batch[0].sampling
        if not sampling.temperature:
            return LogitsProcessorList([RefuseNotANumber()])
        return sampling_processors(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            seeds=[request.seed for request in batch],
            device=self.model.device,
        )
