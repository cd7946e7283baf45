"""What one completion has become so far: its tokens, where it ends, and the text that is certain."""

from baichuan_core.generation.engines.contract import (
    Completion,
    EncodedRequest,
    FinishReason,
    TextDelta,
    TokenLogprobs,
)
from baichuan_core.tokenizer import BaichuanTokenizer

BYTES_OF_A_CHARACTER = 4
UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what an incomplete character decodes to


class Transcript:
    """Collects the tokens of one completion. Every engine's completions end and read the same by it.

    Attributes:
        request: What is answered.
        ids: Tokens so far, the end token included.
        finish_reason: Why it has ended, None while it has not.
    """

    def __init__(self, tokenizer: BaichuanTokenizer, request: EncodedRequest, end_token_ids: frozenset[int]) -> None:
        self.request = request
        self.ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._tokenizer = tokenizer
        self._end_token_ids = end_token_ids
        self._logprobs: list[TokenLogprobs] = []
        # A token holds a byte at least, and a character may lie across the edge of what is looked at.
        self._tail = max((len(text.encode()) for text in request.stop), default=0) + BYTES_OF_A_CHARACTER
        self._sent = 0  # characters of the text
        self._window = 0  # first token that is decoded again
        self._read = 0  # first token whose text is not settled
        self._settled = ""

    def add(self, token_id: int, logprobs: TokenLogprobs | None = None) -> FinishReason | None:
        """Takes the next token; says why the completion has ended by it, if it has."""
        self.ids.append(token_id)
        if logprobs is not None and token_id not in self._end_token_ids:
            self._logprobs.append(logprobs)
        if token_id in self._end_token_ids or (self.request.stop and self._has_stop_text()):
            self.finish_reason = "stop"
        elif len(self.ids) >= self.request.limit:
            self.finish_reason = "length"
        return self.finish_reason

    def delta(self) -> TextDelta | None:
        """The text that has become certain since the last call, None if there is none."""
        if self.finish_reason is None:
            self._settle()
            certain = len(self._settled) - _possible_stop(self._settled, self.request.stop)
            text = self._settled[self._sent : certain]
        else:
            text = self._text()[self._sent :]
        self._sent += len(text)
        return TextDelta(self.request.index, self.request.sample, text) if text else None

    def completion(self) -> Completion:
        """The whole of it, once it has ended."""
        text = self._text()
        return Completion(
            index=self.request.index,
            sample=self.request.sample,
            text=text,
            finish_reason=self.finish_reason or "length",
            prompt_tokens=len(self.request.prompt_ids),
            completion_tokens=len(self.ids),
            logprobs=None if self.request.logprobs is None else tuple(self._logprobs_of(text)),
        )

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _text(self) -> str:
        return cut_at_stop(self._decode(self._text_ids()), self.request.stop)

    def _text_ids(self) -> list[int]:
        """Tokens so far without an end token, which need not be a special token of the tokenizer."""
        return self.ids[:-1] if self.ids and self.ids[-1] in self._end_token_ids else self.ids

    def _has_stop_text(self) -> bool:
        text = self._decode(self.ids[-self._tail :])
        return any(stop in text for stop in self.request.stop)

    def _settle(self) -> None:
        """Decodes only the newest tokens, behind those that decide whether a space goes before them."""
        before = self._decode(self.ids[self._window : self._read])
        now = self._decode(self.ids[self._window :])
        if len(now) > len(before) and not now.endswith(UNFINISHED):
            self._settled += now[len(before) :]
            self._window, self._read = self._read, len(self.ids)

    def _logprobs_of(self, text: str) -> list[TokenLogprobs]:
        """Those of the tokens that are in the text, the last of them in part perhaps."""
        if text == self._decode(self._text_ids()):
            return self._logprobs
        kept = next((end for end in range(len(self._logprobs)) if self._decode(self.ids[:end]).startswith(text)), None)
        return self._logprobs[:kept]


def cut_at_stop(text: str, stop: tuple[str, ...]) -> str:
    """``text`` up to the first of the stop texts."""
    positions = [position for position in (text.find(one) for one in stop) if position >= 0]
    return text[: min(positions)] if positions else text


def _possible_stop(text: str, stop: tuple[str, ...]) -> int:
    """How many characters at the end of ``text`` may be the beginning of a stop text."""
    lengths = (length for one in stop for length in range(min(len(one), len(text)), 0, -1))
    return max((length for length in lengths if any(text.endswith(one[:length]) for one in stop)), default=0)
