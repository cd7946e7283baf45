"""The engine that runs completions in vLLM."""

import os
from collections.abc import Mapping
from itertools import count
from typing import Any

from baichuan_core.config import DEFAULT_CONTEXT_LENGTH
from baichuan_core.generation.engines.capacity import (
    SLOT_TOKENS_ALIGNMENT,
    compute_capacity,
    grow_capacity,
    is_capacity_sufficient,
)
from baichuan_core.generation.engines.contract import Capacity, EncodedRequest, EngineSetup
from baichuan_core.generation.engines.outputs import CompletionOutput, StepOutputs, TokenLogprobs
from baichuan_core.generation.engines.waiting import WaitingQueue
from baichuan_core.generation.transcript import Transcript
from baichuan_core.tokenizer import BaichuanTokenizer

VLLM_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",  # otherwise vLLM sends usage statistics
    # Run the engine core in this process: if a separate core process is killed, the caller hangs (vLLM 0.30).
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # On a CPU, vLLM would otherwise pin threads to cores that other processes may be using.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
# Fraction of the GPU's memory that vLLM requires to be free. It is minimal, because other processes use the GPU too,
# and `kv_cache_memory_bytes` sets the size of the cache.
REQUIRED_FREE_MEMORY_FRACTION = 0.01


def make_engine_arguments(setup: EngineSetup, capacity: Capacity) -> dict[str, Any]:
    """Convert our settings to vLLM's `EngineArgs`. Our tokenizer decodes the text, so vLLM does not load one."""
    config = setup.config
    dtype: str = setup.settings.dtype
    if dtype == "auto" and config.dtype is not None:  # vLLM's "auto" would cast float32 to half precision
        dtype = str(config.dtype).removeprefix("torch.")
    tokens = capacity.slots * capacity.slot_tokens + SLOT_TOKENS_ALIGNMENT  # vLLM leaves one block empty
    token_bytes = 2 * config.num_hidden_layers * config.hidden_size * (4 if dtype == "float32" else 2)
    return {
        "model": str(setup.checkpoint),
        "skip_tokenizer_init": True,
        "dtype": dtype,
        "max_model_len": min(capacity.slot_tokens, config.model_max_length or DEFAULT_CONTEXT_LENGTH),
        "max_num_seqs": capacity.slots,
        "kv_cache_memory_bytes": tokens * token_bytes,
        "gpu_memory_utilization": REQUIRED_FREE_MEMORY_FRACTION,
        "enable_prefix_caching": True,
        "generation_config": "vllm",  # requests already include the settings that the checkpoint recommends
        "disable_log_stats": True,
    }


def make_sampling_arguments(request: EncodedRequest, end_token_ids: frozenset[int]) -> dict[str, Any]:
    """Convert a request to vLLM's `SamplingParams`, without stop strings, which `Transcript` detects."""
    sampling = request.sampling
    return {
        "n": 1,
        "max_tokens": request.limit,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k or -1,
        "top_p": sampling.top_p or 1e-6,  # vLLM rejects 0; in other engines, 0 keeps only the most probable token
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "logit_bias": dict(sampling.logit_bias) or None,
        "seed": request.seed if sampling.temperature else None,
        "stop_token_ids": sorted(end_token_ids),
        "ignore_eos": True,
        "logprobs": request.logprobs,
        "detokenize": False,
    }


def convert_logprobs(token_id: int, found: Mapping[int, Any], wanted: int) -> TokenLogprobs:
    """Convert vLLM's mapping from ids to `Logprob` objects; it contains the most probable tokens and the chosen one."""
    best = sorted(((other, entry.logprob) for other, entry in found.items()), key=lambda pair: -pair[1])
    return TokenLogprobs(token_id, found[token_id].logprob, tuple(best[:wanted]))


class VllmEngine:
    """A checkpoint with an open batch, see `Engine`. vLLM has a fixed number of slots of a fixed length.

    A request that is too long for a slot waits, as do those behind it, until the running completions have ended; then
    vLLM is restarted with longer slots.
    """

    def __init__(self, setup: EngineSetup, tokenizer: BaichuanTokenizer) -> None:
        self._setup = setup
        self._tokenizer = tokenizer
        self._engine: Any = None
        self._capacity = Capacity(0, 0)
        self._waiting = WaitingQueue()
        self._running: dict[int, Transcript] = {}
        self._streamed: set[int] = set()
        self._ids = count()

    @property
    def is_idle(self) -> bool:
        """See `Engine.is_idle`."""
        return not self._running and not self._waiting

    def prepare(self, capacity: Capacity) -> None:
        """See `Engine.prepare`."""
        if not self._running:
            self._ensure_engine(capacity)

    def wake(self) -> None:
        """See `Engine.wake`; nothing to do, because a step never waits."""

    def close(self) -> None:
        """See `Engine.close`."""
        for request_id in list(self._running):
            self.abort(request_id)
        self._waiting = WaitingQueue()
        if self._engine is not None:
            self._engine.engine_core.shutdown()
            self._engine, self._capacity = None, Capacity(0, 0)

    def add_request(self, request: EncodedRequest, *, stream: bool = False) -> int:
        """See `Engine.add_request`."""
        request_id = next(self._ids)
        self._waiting.add(request_id, request)
        if stream:
            self._streamed.add(request_id)
        return request_id

    def abort(self, request_id: int) -> None:
        """See `Engine.abort`."""
        self._waiting.remove(request_id)
        if self._running.pop(request_id, None):
            self._engine.abort_request([str(request_id)])
        self._streamed.discard(request_id)

    def step(self) -> StepOutputs:
        """See `Engine.step`."""
        self._start_waiting_requests()
        if not self._running:
            return StepOutputs()
        outputs = []
        for news in self._engine.step():
            request_id = int(news.request_id)
            transcript = self._running.get(request_id)
            if transcript is not None:  # otherwise the completion was aborted, or ended by a stop string
                outputs.append(self._build_output(request_id, transcript, news))
        return StepOutputs(tuple(outputs))

    def _start_waiting_requests(self) -> None:
        """Pass waiting requests to vLLM, which queues those for which it has no slot yet."""
        while self._waiting:
            if self._waiting.peek().max_tokens >= self._capacity.slot_tokens:
                if self._running:
                    return
                self._ensure_engine(compute_capacity(self._waiting.list_requests(), self._setup.settings))
            else:
                self._start_request(*self._waiting.pop())

    def _start_request(self, request_id: int, request: EncodedRequest) -> None:
        from vllm import SamplingParams  # noqa: PLC0415 - slow, and rarely installed
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

        known = frozenset(one for one in self._setup.end_token_ids if one < self._setup.config.vocab_size)
        params = SamplingParams(**make_sampling_arguments(request, known), output_kind=RequestOutputKind.DELTA)
        self._engine.add_request(str(request_id), {"prompt_token_ids": list(request.prompt_ids)}, params)
        self._running[request_id] = Transcript(self._tokenizer, request, self._setup.end_token_ids)

    def _build_output(self, request_id: int, transcript: Transcript, news: Any) -> CompletionOutput:
        """Add the new tokens of a completion to its transcript, and return the resulting output."""
        tokens = _add_new_tokens(transcript, news.outputs[0])
        if news.finished and transcript.finish_reason is None:
            transcript.finish_reason = "stop"  # vLLM does not report the end token
        delta = transcript.take_delta() if request_id in self._streamed else None
        if transcript.finish_reason is None:
            return CompletionOutput(request_id, tokens, delta)
        del self._running[request_id]
        self._streamed.discard(request_id)
        if not news.finished:
            self._engine.abort_request([news.request_id])
        return CompletionOutput(request_id, tokens, delta, transcript.build_completion())

    def _ensure_engine(self, needed: Capacity) -> None:
        """Start vLLM with the needed capacity, unless it is already running with enough."""
        if self._engine is not None:
            if is_capacity_sufficient(self._capacity, needed):
                return
            needed = grow_capacity(self._capacity, needed, self._setup.settings)
            self._engine.engine_core.shutdown()
            self._engine = None
        self._engine, self._capacity = _start_vllm(make_engine_arguments(self._setup, needed)), needed


def _add_new_tokens(transcript: Transcript, news: Any) -> int:
    """Add the new tokens up to the end of the completion, and return how many were added."""
    wanted = transcript.request.logprobs
    for place, token_id in enumerate(news.token_ids):
        found = None if wanted is None else convert_logprobs(token_id, news.logprobs[place], wanted)
        if transcript.add(token_id, found):
            return place + 1
    return len(news.token_ids)


def _start_vllm(arguments: Mapping[str, Any]) -> Any:
    for name, value in VLLM_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from vllm import EngineArgs, LLMEngine  # noqa: PLC0415 - slow, and rarely installed

    return LLMEngine.from_engine_args(EngineArgs(**arguments))
