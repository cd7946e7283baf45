"""vLLM as an engine, where it is installed (extra ``vllm``) and computes this model right.

Written against vLLM's documented interface (``EngineArgs``, ``LLMEngine.add_request``, ``step`` and ``abort_request``,
``SamplingParams``). It needs a GPU, and none was there when this was written: what is tested is the choice and the
translation of options; the loop itself has not run.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch

from baichuan_core.config import DEFAULT_CONTEXT_LENGTH, BaichuanConfig
from baichuan_core.generation.engines.contract import (
    Completion,
    EncodedRequest,
    Engine,
    EngineSetup,
    Step,
    TextDelta,
    TokenLogprobs,
)
from baichuan_core.generation.transcript import Transcript
from baichuan_core.tokenizer import BaichuanTokenizer

HIDDEN_SIZE_OF_7B = 4096  # by which vLLM tells RoPE from ALiBi
VOCABULARY_WITH_NORM_HEAD = 125696  # by which vLLM tells the normalised head


def obstacle(setup: EngineSetup) -> str | None:
    """See `EngineModule.obstacle`."""
    if find_spec("vllm") is None:
        return "it is not installed"
    if not torch.cuda.is_available() or (setup.settings.device or "cuda").split(":")[0] != "cuda":
        return "it needs a GPU"
    if setup.adapter is not None:
        return "it is not used with adapters"
    return model_obstacle(setup.config)


def model_obstacle(config: BaichuanConfig) -> str | None:
    """Why vLLM would not compute this model, or compute it wrong in silence; None if neither."""
    if getattr(config, "quantization_config", None):
        return "it is not used for quantized checkpoints"
    old_7b = "BaiChuanForCausalLM" in (config.architectures or [])
    rope = old_7b or config.hidden_size == HIDDEN_SIZE_OF_7B
    if rope != (config.position_embedding == "rope"):
        return "it tells the positions by the hidden size, which says the other kind here"
    if config.norm_head != (config.vocab_size == VOCABULARY_WITH_NORM_HEAD):
        return "it tells the normalised head by the vocabulary, which says otherwise here"
    return None


def start(setup: EngineSetup, tokenizer: BaichuanTokenizer) -> Engine:
    """See `EngineModule.start`."""
    from vllm import EngineArgs, LLMEngine  # noqa: PLC0415 - heavy, and rarely there

    engine = LLMEngine.from_engine_args(EngineArgs(**engine_arguments(setup)))
    return VllmEngine(engine, tokenizer, setup.end_token_ids)


def engine_arguments(setup: EngineSetup) -> dict[str, Any]:
    """Our settings as vLLM's ``EngineArgs``. Text is made by our tokenizer, so vLLM loads none."""
    return {
        "model": str(setup.checkpoint),
        "skip_tokenizer_init": True,
        "dtype": setup.settings.dtype,
        "max_model_len": setup.config.model_max_length or DEFAULT_CONTEXT_LENGTH,
        "max_num_seqs": setup.settings.batch_size,
        "enable_prefix_caching": True,
        "generation_config": "vllm",  # what the checkpoint recommends is in each request already
    }


def sampling_arguments(request: EncodedRequest, end_token_ids: frozenset[int]) -> dict[str, Any]:
    """A request as vLLM's ``SamplingParams``. Stop texts are found in our own transcript, so they are not passed."""
    sampling = request.sampling
    return {
        "n": 1,
        "max_tokens": request.limit,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k or -1,
        "top_p": sampling.top_p or 1e-6,  # 0 would leave no token; ours and transformers' keep the first
        "repetition_penalty": sampling.repetition_penalty,
        "seed": request.seed if sampling.temperature else None,
        "stop_token_ids": sorted(end_token_ids),
        "ignore_eos": True,
        "logprobs": request.logprobs,
        "detokenize": False,
    }


def token_logprobs(token_id: int, found: Mapping[int, Any], count: int) -> TokenLogprobs:
    """vLLM's mapping of ids to ``Logprob`` objects as ours; it has the chosen token beside the best ones."""
    best = sorted(((other, entry.logprob) for other, entry in found.items()), key=lambda pair: -pair[1])
    return TokenLogprobs(token_id, found[token_id].logprob, tuple(best[:count]))


class VllmEngine:
    """Feeds requests to vLLM's engine and reads what comes."""

    def __init__(self, engine: Any, tokenizer: BaichuanTokenizer, end_token_ids: frozenset[int]) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.end_token_ids = end_token_ids

    def run(self, requests: Sequence[EncodedRequest], *, stream: bool = False) -> Iterator[Step]:
        """See `Engine.run`."""
        from vllm import SamplingParams  # noqa: PLC0415
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

        transcripts: dict[str, Transcript] = {}
        for request in requests:
            name = f"{request.index}-{request.sample}"
            transcripts[name] = Transcript(self.tokenizer, request, self.end_token_ids)
            arguments = sampling_arguments(request, self.end_token_ids)
            params = SamplingParams(**arguments, output_kind=RequestOutputKind.DELTA)
            self.engine.add_request(name, {"prompt_token_ids": list(request.prompt_ids)}, params)
        try:
            while transcripts:
                yield self._step(transcripts, stream=stream)
        finally:
            if transcripts:
                self.engine.abort_request(list(transcripts))

    def _step(self, transcripts: dict[str, Transcript], *, stream: bool) -> Step:
        tokens, deltas = 0, list[TextDelta]()
        completions: list[Completion] = []
        for output in self.engine.step():
            transcript = transcripts.get(output.request_id)
            if transcript is None:
                continue  # ended by a stop text while this was on its way
            tokens += self._take(transcript, output.outputs[0])
            if output.finished and transcript.finish_reason is None:
                transcript.finish_reason = "stop"  # at an end token that vLLM kept to itself
            if stream and (delta := transcript.delta()):
                deltas.append(delta)
            if transcript.finish_reason:
                completions.append(transcript.completion())
                del transcripts[output.request_id]
                if not output.finished:
                    self.engine.abort_request([output.request_id])
        return Step(tokens, tuple(deltas), tuple(completions))

    @staticmethod
    def _take(transcript: Transcript, news: Any) -> int:
        """Adds the new tokens up to the end of the completion; how many they were."""
        count = transcript.request.logprobs
        for place, token_id in enumerate(news.token_ids):
            found = None if count is None else token_logprobs(token_id, news.logprobs[place], count)
            if transcript.add(token_id, found):
                return place + 1
        return len(news.token_ids)
