"""Feeds requests to vLLM's engine and puts what it answers into the form of all engines."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from baichuan_core.errors import UnsupportedError
from baichuan_core.generation.engines.capacity import TOKENS_AT_ONCE, Capacity
from baichuan_core.generation.engines.contract import (
    Completion,
    EncodedRequest,
    EngineSetup,
    Step,
    TextDelta,
    TokenLogprobs,
)
from baichuan_core.generation.transcript import Transcript
from baichuan_core.tokenizer import BaichuanTokenizer

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",  # it reports to its makers unless told not to
    # All of it in this process: with its core in another, a run waits for ever when that one is killed (vLLM 0.30).
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # on a CPU it pins threads to cores, whatever else runs there
}
LEAST_SHARE = 0.01  # of a GPU's memory that must be free: others use it too, and the cache's size is told


def engine_arguments(setup: EngineSetup, capacity: Capacity) -> dict[str, Any]:
    """Our settings as vLLM's ``EngineArgs``. Text is made by our tokenizer, so vLLM loads none."""
    config = setup.config
    dtype: str = setup.settings.dtype
    if dtype == "auto" and config.dtype is not None:  # vLLM's own "auto" halves float32
        dtype = str(config.dtype).removeprefix("torch.")
    tokens = capacity.slots * capacity.slot_tokens + TOKENS_AT_ONCE  # one block of vLLM's stays empty
    token_bytes = 2 * config.num_hidden_layers * config.hidden_size * (4 if dtype == "float32" else 2)
    return {
        "model": str(setup.checkpoint),
        "skip_tokenizer_init": True,
        "dtype": dtype,
        "max_model_len": capacity.slot_tokens,
        "max_num_seqs": capacity.slots,
        "kv_cache_memory_bytes": tokens * token_bytes,
        "gpu_memory_utilization": LEAST_SHARE,
        "enable_prefix_caching": True,
        "generation_config": "vllm",  # what the checkpoint recommends is in each request already
        "disable_log_stats": True,
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
    """A checkpoint. vLLM is started with the first requests, for as many and as long ones."""

    def __init__(self, setup: EngineSetup, tokenizer: BaichuanTokenizer) -> None:
        self._setup = setup
        self._tokenizer = tokenizer
        self._engine: Any = None
        self._capacity = Capacity(0, 0)
        self._busy = False

    def run(self, requests: Sequence[EncodedRequest], *, stream: bool = False) -> Iterator[Step]:
        """See `Engine.run`. The model is loaded when this returns, and answers one run at a time."""
        self._require_idle()
        wanted = Capacity.of(requests, self._setup.settings)
        if not self._capacity.holds(wanted):
            self.end()
            self._engine, self._capacity = _started(engine_arguments(self._setup, wanted)), wanted
        return self._steps(requests, stream=stream)

    def end(self) -> None:
        """Gives vLLM's memory back."""
        if self._engine is not None:
            self._engine.engine_core.shutdown()
            self._engine, self._capacity = None, Capacity(0, 0)

    def _steps(self, requests: Sequence[EncodedRequest], *, stream: bool) -> Iterator[Step]:
        self._require_idle()
        transcripts = {
            f"{request.index}-{request.sample}": Transcript(self._tokenizer, request, self._setup.end_token_ids)
            for request in sorted(requests, key=lambda one: (-len(one.prompt_ids) - one.limit, one.index, one.sample))
        }
        self._busy = True
        try:
            self._add(transcripts)
            while transcripts:
                yield self._step(transcripts, stream=stream)
        finally:
            self._busy = False
            if transcripts:
                self._engine.abort_request(list(transcripts))

    def _require_idle(self) -> None:
        if self._busy:
            raise UnsupportedError("vLLM is answering another run: read that to its end or close it first")

    def _add(self, transcripts: Mapping[str, Transcript]) -> None:
        from vllm import SamplingParams  # noqa: PLC0415
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

        known = frozenset(one for one in self._setup.end_token_ids if one < self._setup.config.vocab_size)
        for name, transcript in transcripts.items():
            arguments = sampling_arguments(transcript.request, known)
            params = SamplingParams(**arguments, output_kind=RequestOutputKind.DELTA)
            self._engine.add_request(name, {"prompt_token_ids": list(transcript.request.prompt_ids)}, params)

    def _step(self, transcripts: dict[str, Transcript], *, stream: bool) -> Step:
        tokens, deltas = 0, list[TextDelta]()
        completions: list[Completion] = []
        for output in self._engine.step():
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
                    self._engine.abort_request([output.request_id])
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


def _started(arguments: Mapping[str, Any]) -> Any:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from vllm import EngineArgs, LLMEngine  # noqa: PLC0415 - heavy, and rarely there

    return LLMEngine.from_engine_args(EngineArgs(**arguments))
