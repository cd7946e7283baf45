"""A completion while it is being generated: its tokens, whether it has finished, and the text that is already final."""

from baichuan_core.generation.engines.contract import EncodedRequest
from baichuan_core.generation.engines.outputs import Completion, FinishReason, TextDelta, TokenLogprobs
from baichuan_core.tokenizer import BaichuanTokenizer

MAX_UTF8_BYTES_PER_CHARACTER = 4
INCOMPLETE_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # result of decoding an incomplete character


class Transcript:
    """The tokens of one completion so far, with stopping and decoding that are the same for every engine.

    Example:
        With the stop string " end", tokens whose texts are "The", " e", "n" and "ergy" give the deltas
        "The" and " energy": " en" is held back, because it may be the start of the stop string.

    Attributes:
        request: The request.
        ids: Tokens so far, including the end token.
        finish_reason: Reason why the completion has finished; None until then.
    """

    def __init__(self, tokenizer: BaichuanTokenizer, request: EncodedRequest, end_token_ids: frozenset[int]) -> None:
        self.request = request
        self.ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._tokenizer = tokenizer
        self._end_token_ids = end_token_ids
        self._logprobs: list[TokenLogprobs] = []
        # Number of trailing tokens to search for a stop string. Every token has at least one byte, and the first
        # character of the decoded tail may be incomplete.
        self._tail = max((len(text.encode()) for text in request.stop), default=0) + MAX_UTF8_BYTES_PER_CHARACTER
        self._sent = 0  # number of characters that `take_delta` has returned so far
        self._window = 0  # index of the first token to decode again, see `_settle_text`
        self._read = 0  # number of tokens whose text is settled
        self._settled = ""
        self._settled_at: list[tuple[int, int]] = []  # pairs: number of settled characters, number of settled tokens
        self._sent_logprobs = 0

    def add(self, token_id: int, logprobs: TokenLogprobs | None = None) -> FinishReason | None:
        """Add the next token; return the finish reason if it ends the completion."""
        self.ids.append(token_id)
        if logprobs is not None and token_id not in self._end_token_ids:
            self._logprobs.append(logprobs)
        if token_id in self._end_token_ids or (self.request.stop and self._has_stop_string()):
            self.finish_reason = "stop"
        elif len(self.ids) >= self.request.limit:
            self.finish_reason = "length"
        return self.finish_reason

    def take_delta(self) -> TextDelta | None:
        """Return the text and log-probabilities that have become final since the last call; None if there are none."""
        if self.finish_reason is None:
            self._settle_text()
            certain = len(self._settled) - _count_partial_stop_characters(self._settled, self.request.stop)
            text = self._settled[self._sent : certain]
        else:
            text = self._get_text()[self._sent :]
        self._sent += len(text)
        logprobs = self._take_unsent_logprobs()
        return TextDelta(self.request.index, self.request.sample, text, logprobs) if text or logprobs else None

    def build_completion(self) -> Completion:
        """Return the whole completion; call this once it has finished."""
        text = self._get_text()
        return Completion(
            index=self.request.index,
            sample=self.request.sample,
            text=text,
            finish_reason=self.finish_reason or "length",
            prompt_tokens=len(self.request.prompt_ids),
            completion_tokens=len(self.ids),
            logprobs=None if self.request.logprobs is None else tuple(self._get_text_logprobs(text)),
        )

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _get_text(self) -> str:
        return truncate_at_stop_string(self._decode(self._get_text_ids()), self.request.stop)

    def _get_text_ids(self) -> list[int]:
        """Return the tokens so far without a final end token, because `_decode` skips only special tokens."""
        return self.ids[:-1] if self.ids and self.ids[-1] in self._end_token_ids else self.ids

    def _has_stop_string(self) -> bool:
        text = self._decode(self.ids[-self._tail :])
        return any(stop in text for stop in self.request.stop)

    def _settle_text(self) -> None:
        """Append the text of the newest tokens to the settled text, unless it ends in the middle of a character.

        Only the newest tokens are decoded, together with those settled before them, which decide whether the new text
        starts with a space.
        """
        before = self._decode(self.ids[self._window : self._read])
        now = self._decode(self.ids[self._window :])
        if len(now) > len(before) and not now.endswith(INCOMPLETE_CHARACTER):
            self._settled += now[len(before) :]
            self._window, self._read = self._read, len(self.ids)
            if self.request.logprobs is not None:
                self._settled_at.append((len(self._settled), self._read))

    def _take_unsent_logprobs(self) -> tuple[TokenLogprobs, ...]:
        """Return the log-probabilities of the tokens whose text has been sent since the last call."""
        if self.request.logprobs is None:
            return ()
        if self.finish_reason is None:
            end = self._sent_logprobs
            while self._settled_at and self._settled_at[0][0] <= self._sent:
                end = self._settled_at.pop(0)[1]
            unsent = self._logprobs[self._sent_logprobs : end]
        else:
            unsent = self._get_text_logprobs(self._get_text())[self._sent_logprobs :]
        self._sent_logprobs += len(unsent)
        return tuple(unsent)

    def _get_text_logprobs(self, text: str) -> list[TokenLogprobs]:
        """Return the log-probabilities of the tokens in `text`, including a final token cut by a stop string."""
        if text == self._decode(self._get_text_ids()):
            return self._logprobs
        kept = next((end for end in range(len(self._logprobs)) if self._decode(self.ids[:end]).startswith(text)), None)
        return self._logprobs[: kept if kept is None else max(kept, self._sent_logprobs)]


def truncate_at_stop_string(text: str, stop: tuple[str, ...]) -> str:
    """Return `text` up to the first stop string."""
    positions = [position for position in (text.find(one) for one in stop) if position >= 0]
    return text[: min(positions)] if positions else text


def _count_partial_stop_characters(text: str, stop: tuple[str, ...]) -> int:
    """Return the number of characters at the end of `text` that may be the start of a stop string."""
    lengths = (length for one in stop for length in range(min(len(one), len(text)), 0, -1))
    return max((length for length in lengths if any(text.endswith(one[:length]) for one in stop)), default=0)
