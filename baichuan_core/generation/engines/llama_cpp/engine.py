"""Asks llama.cpp's server for many completions at once and puts what it answers into the form of all engines."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from queue import SimpleQueue

import torch

from baichuan_core.errors import UnsupportedError
from baichuan_core.generation.engines.capacity import Capacity
from baichuan_core.generation.engines.contract import EncodedRequest, EngineSetup, Step, TokenLogprobs
from baichuan_core.generation.engines.llama_cpp.calls import Calls, GivenUpError
from baichuan_core.generation.engines.llama_cpp.characters import ByteTokens
from baichuan_core.generation.engines.llama_cpp.questions import Answer, Piece, question
from baichuan_core.generation.engines.llama_cpp.server import LlamaServer
from baichuan_core.generation.transcript import Transcript
from baichuan_core.tokenizer import BaichuanTokenizer

PROBABLE_TOKENS = 1000


class LlamaCppEngine:
    """A GGUF model. llama.cpp's server is started with the first requests, for as many and as long ones."""

    def __init__(self, setup: EngineSetup, tokenizer: BaichuanTokenizer) -> None:
        self._model = next(iter(sorted(setup.checkpoint.glob("*.gguf"))))
        self._setup = setup
        self._tokenizer = tokenizer
        self._bytes = ByteTokens(tokenizer)
        self._idle: LlamaServer | None = None

    def run(self, requests: Sequence[EncodedRequest], *, stream: bool = False) -> Iterator[Step]:
        """See `Engine.run`. The model is loaded when this returns."""
        return self._steps(self._take_server(Capacity.of(requests, self._setup.settings)), requests, stream=stream)

    def _steps(self, server: LlamaServer, requests: Sequence[EncodedRequest], *, stream: bool) -> Iterator[Step]:
        calls = Calls(server)
        steps: SimpleQueue[Step | Future[None]] = SimpleQueue()
        longest_first = sorted(requests, key=lambda one: (-len(one.prompt_ids) - one.limit, one.index, one.sample))
        with ThreadPoolExecutor(server.capacity.slots, "llama.cpp") as pool:
            for request in longest_first:
                task = _Completion(self, calls, request, steps)
                work = task.stream if stream else task.whole
                pool.submit(_until_given_up, work).add_done_callback(steps.put)
            running = len(longest_first)
            try:
                while running:
                    step = steps.get()
                    if isinstance(step, Step):
                        yield step
                    else:
                        running -= 1
                        step.result()
            finally:
                calls.give_up()
                pool.shutdown(cancel_futures=True)
                if calls.unread:
                    server.end()
                self._idle = server

    def transcript(self, request: EncodedRequest) -> Transcript:
        """An empty one."""
        return Transcript(self._tokenizer, request, self._setup.end_token_ids)

    def byte_tokens_before(self, piece: Piece, known: int) -> list[int] | None:
        """Tokens between the ``known`` first ones and the one that a piece names; None if they cannot be told."""
        return self._bytes.before(piece.token, piece.text, piece.count - known - 1)

    def logprobs(self, calls: Calls, request: EncodedRequest, answer: Answer) -> list[TokenLogprobs | None]:
        """What the model thought of each token; llama.cpp is asked again for those that it left out."""
        if request.logprobs is None:
            return [None] * len(answer.tokens)
        entries = iter(answer.entries)
        found: list[TokenLogprobs | None] = []
        for place, unfinished in enumerate(self._bytes.unfinished(answer.tokens)):
            token = answer.tokens[place]
            entry = None if unfinished else next(entries, None)
            if entry is not None and entry["id"] == token:
                best = [(one["id"], one["logprob"]) for one in entry["top_logprobs"]]
                found.append(TokenLogprobs(token, entry["logprob"], tuple(best[: request.logprobs])))
            else:
                found.append(self._look_up(calls, request, answer.tokens[:place], token))
        return found

    def _look_up(self, calls: Calls, request: EncodedRequest, before: Sequence[int], token: int) -> TokenLogprobs:
        """The distribution behind ``before``, told with an end token that is forced and so finishes no character."""
        prompt = (*request.prompt_ids, *before)
        asked = replace(request, prompt_ids=prompt, limit=1, sampling=replace(request.sampling, temperature=0.0))
        forced = {"logit_bias": [[min(self._setup.end_token_ids), 1e9]]}
        for many in (PROBABLE_TOKENS, self._setup.config.vocab_size):
            entry = calls.complete(question(replace(asked, logprobs=many)) | forced).entries[0]
            best = [(one["id"], one["logprob"]) for one in entry["top_logprobs"]]
            if token in (chances := dict(best)):
                return TokenLogprobs(token, chances[token], tuple(best[: request.logprobs]))
        raise UnsupportedError("llama.cpp does not tell the probability of a token; leave 'logprobs' out")

    def _take_server(self, wanted: Capacity) -> LlamaServer:
        """One that is this run's alone: the last run's, or a new one."""
        server, self._idle = self._idle, None
        if server is None or not server.alive or not server.capacity.holds(wanted):
            del server  # its memory is free before the next one starts
            server = LlamaServer(self._model, wanted, threads=torch.get_num_threads())
        return server


def _until_given_up(work: Callable[[], None]) -> None:
    """An error that nobody hears of would keep alive what it has passed."""
    with suppress(GivenUpError):
        work()


class _Completion:
    """One completion, in a thread of its own."""

    def __init__(
        self,
        engine: LlamaCppEngine,
        calls: Calls,
        request: EncodedRequest,
        steps: "SimpleQueue[Step | Future[None]]",
    ) -> None:
        self._engine = engine
        self._calls = calls
        self._request = request
        self._steps = steps
        self._transcript = engine.transcript(request)

    def whole(self) -> None:
        """Ask for all of it at once."""
        self._take(self._ask(), stream=False)

    def stream(self) -> None:
        """Pass on the text as it comes; what cannot be told token by token follows when it is whole."""
        if self._request.logprobs is None:
            for piece in self._calls.stream(question(self._request)):
                if not self._pass_on(piece):
                    break
        if self._transcript.finish_reason is None:
            self._take(self._ask(), stream=True)

    def _ask(self) -> Answer:
        return self._calls.complete(question(self._request, stop=self._request.stop))

    def _pass_on(self, piece: Piece) -> bool:
        """Whether the next piece is wanted."""
        between = self._engine.byte_tokens_before(piece, len(self._transcript.ids))
        if between is None:
            return False
        for token in (*between, piece.token):
            if self._transcript.add(token):
                break
        self._report(1 + len(between), stream=True)
        return self._transcript.finish_reason is None

    def _take(self, answer: Answer, *, stream: bool) -> None:
        known = len(self._transcript.ids)
        logprobs = self._engine.logprobs(self._calls, self._request, answer)
        for token, logprob in list(zip(answer.tokens, logprobs, strict=True))[known:]:
            if self._transcript.add(token, logprob):
                break
        if self._transcript.finish_reason is None:
            self._transcript.finish_reason = "length" if answer.stop_type == "limit" else "stop"
        self._report(len(self._transcript.ids) - known, stream=stream)

    def _report(self, tokens: int, *, stream: bool) -> None:
        delta = self._transcript.delta() if stream else None
        completions = () if self._transcript.finish_reason is None else (self._transcript.completion(),)
        self._steps.put(Step(tokens, (delta,) if delta else (), completions))
