"""One completion as it grows: its tokens, where it ends, and the text that is certain."""

from baichuan_core.generation.engines.contract import EncodedRequest
from baichuan_core.generation.engines.outputs import Completion, FinishReason, TextDelta, TokenLogprobs
from baichuan_core.tokenizer import BaichuanTokenizer

BYTES_OF_A_CHARACTER = 4
UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # an incomplete character decodes to this


class Transcript:
    """Collects the tokens of one completion, so that completions of every engine end and read the same.

    Example:
        With the stop text " end", tokens whose texts are "The", " e", "n" and "ergy" give the deltas
        "The" and " energy": " en" is held back, because it may be the start of the stop text.

    Attributes:
        request: The request.
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
        self._settled_at: list[tuple[int, int]] = []  # lengths of the settled text, and their numbers of tokens
        self._sent_logprobs = 0

    def add(self, token_id: int, logprobs: TokenLogprobs | None = None) -> FinishReason | None:
        """Add the next token, and return the reason if the completion has ended with it."""
        self.ids.append(token_id)
        if logprobs is not None and token_id not in self._end_token_ids:
            self._logprobs.append(logprobs)
        if token_id in self._end_token_ids or (self.request.stop and self._has_stop_text()):
            self.finish_reason = "stop"
        elif len(self.ids) >= self.request.limit:
            self.finish_reason = "length"
        return self.finish_reason

    def delta(self) -> TextDelta | None:
        """Return the text that has become certain since the last call, None if there is none."""
        if self.finish_reason is None:
            self._settle()
            certain = len(self._settled) - _possible_stop(self._settled, self.request.stop)
            text = self._settled[self._sent : certain]
        else:
            text = self._text()[self._sent :]
        self._sent += len(text)
        logprobs = self._unsent_logprobs()
        return TextDelta(self.request.index, self.request.sample, text, logprobs) if text or logprobs else None

    def completion(self) -> Completion:
        """Return the whole completion, once it has ended."""
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
            if self.request.logprobs is not None:
                self._settled_at.append((len(self._settled), self._read))

    def _unsent_logprobs(self) -> tuple[TokenLogprobs, ...]:
        """Return the log-probabilities of the tokens whose text has been sent since the last call."""
        if self.request.logprobs is None:
            return ()
        if self.finish_reason is None:
            end = self._sent_logprobs
            while self._settled_at and self._settled_at[0][0] <= self._sent:
                end = self._settled_at.pop(0)[1]
            unsent = self._logprobs[self._sent_logprobs : end]
        else:
            unsent = self._logprobs_of(self._text())[self._sent_logprobs :]
        self._sent_logprobs += len(unsent)
        return tuple(unsent)

    def _logprobs_of(self, text: str) -> list[TokenLogprobs]:
        """Return those of the tokens of the text; the last token may be in it only in part."""
        if text == self._decode(self._text_ids()):
            return self._logprobs
        kept = next((end for end in range(len(self._logprobs)) if self._decode(self.ids[:end]).startswith(text)), None)
        return self._logprobs[: kept if kept is None else max(kept, self._sent_logprobs)]


def cut_at_stop(text: str, stop: tuple[str, ...]) -> str:
    """``text`` up to the first of the stop texts."""
    positions = [position for position in (text.find(one) for one in stop) if position >= 0]
    return text[: min(positions)] if positions else text


def _possible_stop(text: str, stop: tuple[str, ...]) -> int:
    """How many characters at the end of ``text`` may be the beginning of a stop text."""
    lengths = (length for one in stop for length in range(min(len(one), len(text)), 0, -1))
    return max((length for length in lengths if any(text.endswith(one[:length]) for one in stop)), default=0)
