"""One completion from llama.cpp's server, read by a separate thread."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from baichuan_core.errors import BaichuanError, UnsupportedError
from baichuan_core.generation.engines.contract import EncodedRequest
from baichuan_core.generation.engines.llama_cpp.calls import CompletionAbortedError, CompletionClient
from baichuan_core.generation.engines.llama_cpp.characters import ByteTokenTable
from baichuan_core.generation.engines.llama_cpp.protocol import CompletionChunk, CompletionResponse, make_request_body
from baichuan_core.generation.engines.outputs import CompletionOutput, FinishReason, TokenLogprobs
from baichuan_core.generation.transcript import Transcript

INITIAL_LOGPROB_COUNT = 1000  # number of top tokens to request first; requesting the whole vocabulary is slow


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The properties of the vocabulary that a completion needs.

    Attributes:
        bytes: The tokens that represent single bytes.
        size: Number of tokens.
        end_token: A token that ends a completion.
    """

    bytes: ByteTokenTable
    size: int
    end_token: int


class RunningCompletion:
    """A completion that runs in llama.cpp's server; `run` reads it and reports its outputs.

    The completion is always streamed, because closing the connection of a stream frees the slot. A stream omits tokens
    that end inside a character; they are inferred from the bytes of the text. If they are ambiguous, or the completion
    ends inside a character, the whole completion is requested again without streaming, which returns all tokens.

    Attributes:
        calls: The completion's HTTP requests.
    """

    def __init__(
        self,
        request_id: int,
        transcript: Transcript,
        calls: CompletionClient,
        vocabulary: Vocabulary,
        report: Callable[[CompletionOutput | BaseException], None],
        *,
        stream: bool,
    ) -> None:
        self.calls = calls
        self._id = request_id
        self._request = transcript.request
        self._transcript = transcript
        self._vocabulary = vocabulary
        self._report = report
        self._stream = stream

    def run(self) -> None:
        """Report outputs until the completion has finished, failed or been aborted."""
        try:
            self._read_completion()
        except CompletionAbortedError:
            pass
        except BaichuanError as error:
            self._report(CompletionOutput(self._id, 0, error=error))
        except BaseException as error:  # noqa: BLE001 - the engine's step raises it
            self._report(error)

    def _read_completion(self) -> None:
        with closing(self.calls.stream(make_request_body(self._request))) as groups:
            for chunks in groups:
                if not self._add_chunks(chunks):
                    break
        if self._transcript.finish_reason is None:
            self._add_response(self.calls.complete(make_request_body(self._request, stop=self._request.stop)))

    def _add_chunks(self, chunks: Sequence[CompletionChunk]) -> bool:
        """Add the tokens of consecutive chunks; return whether the next ones are needed."""
        known = len(self._transcript.ids)
        ids, logprobs = list(self._transcript.ids), list[TokenLogprobs | None]()
        missing: Sequence[int] | None = ()
        for chunk in chunks:
            missing = self._vocabulary.bytes.infer_omitted_tokens(chunk.token, chunk.text, chunk.count - len(ids) - 1)
            if missing is None:
                break
            for token in missing:
                logprobs.append(self._request_logprobs(ids, token))
                ids.append(token)
            logprobs.append(self._convert_logprob_entry(chunk.entry, chunk.token, ids))
            ids.append(chunk.token)
        if logprobs:
            self._add_tokens(ids[known:], logprobs)
        return missing is not None and self._transcript.finish_reason is None

    def _add_response(self, answer: CompletionResponse) -> None:
        """Add the tokens of the whole completion that are not known yet."""
        known = len(self._transcript.ids)
        logprobs = self._list_logprobs(answer, known)
        self._add_tokens(answer.tokens[known:], logprobs, ended="length" if answer.stop_type == "limit" else "stop")

    def _add_tokens(
        self,
        tokens: Sequence[int],
        logprobs: Sequence[TokenLogprobs | None],
        ended: FinishReason | None = None,
    ) -> None:
        before = len(self._transcript.ids)
        for token, logprob in zip(tokens, logprobs, strict=True):
            if self._transcript.add(token, logprob):
                break
        if self._transcript.finish_reason is None:
            self._transcript.finish_reason = ended
        delta = self._transcript.take_delta() if self._stream else None
        completion = self._transcript.build_completion() if self._transcript.finish_reason else None
        self._report(CompletionOutput(self._id, len(self._transcript.ids) - before, delta, completion))

    def _list_logprobs(self, answer: CompletionResponse, known: int) -> list[TokenLogprobs | None]:
        """Return the log-probabilities of the tokens from index `known` on.

        The server reports entries only for tokens that complete a character.
        """
        entries = iter(answer.entries)
        found: list[TokenLogprobs | None] = []
        for place, incomplete in enumerate(self._vocabulary.bytes.flag_incomplete_characters(answer.tokens)):
            entry = None if incomplete else next(entries, None)
            if place >= known:
                found.append(self._convert_logprob_entry(entry, answer.tokens[place], answer.tokens[:place]))
        return found

    def _convert_logprob_entry(
        self, entry: Mapping[str, Any] | None, token: int, before: Sequence[int]
    ) -> TokenLogprobs | None:
        if self._request.logprobs is None:
            return None
        if entry is None or entry["id"] != token:
            return self._request_logprobs(before, token)
        best = [(one["id"], one["logprob"]) for one in entry["top_logprobs"]]
        return TokenLogprobs(token, entry["logprob"], tuple(best[: self._request.logprobs]))

    def _request_logprobs(self, before: Sequence[int], token: int) -> TokenLogprobs | None:
        """Request the log-probability of `token` after the tokens `before`, and those of the alternatives.

        A bias forces an end token as the completion, because the server reports no entry for a token that ends inside a
        character. The reported probabilities are those before this bias is applied.
        """
        if self._request.logprobs is None:
            return None
        prompt = (*self._request.prompt_ids, *before)
        sampling = replace(self._request.sampling, temperature=0.0, logit_bias=((self._vocabulary.end_token, 1e9),))
        base: EncodedRequest = replace(self._request, prompt_ids=prompt, limit=1, sampling=sampling)
        for count in (INITIAL_LOGPROB_COUNT, self._vocabulary.size):
            entry = self.calls.complete(make_request_body(replace(base, logprobs=count))).entries[0]
            best = [(one["id"], one["logprob"]) for one in entry["top_logprobs"]]
            if token in (found := dict(best)):
                return TokenLogprobs(token, found[token], tuple(best[: self._request.logprobs]))
        raise UnsupportedError("llama.cpp did not report the probability of one of the tokens; remove 'logprobs'")
