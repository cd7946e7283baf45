"""When each row of a batch has ended, and why."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import StoppingCriteria

from baichuan_core.tokenizer import BaichuanTokenizer

FinishReason = Literal["stop", "length"]

BYTES_OF_A_CHARACTER = 4


class RowEnds(StoppingCriteria):
    """Ends a row at an end token, at a stop text or at its own length limit, and remembers where.

    Attributes:
        lengths: Tokens generated for each row, the end token included.
        reasons: Why each row ended, None while it has not.
    """

    def __init__(
        self,
        tokenizer: BaichuanTokenizer,
        *,
        prompt_length: int,
        limits: Sequence[int],
        end_token_ids: frozenset[int],
        stop: Sequence[str],
        on_step: Callable[[int], None],
    ) -> None:
        self.tokenizer = tokenizer
        self.prompt_length = prompt_length
        self.limits = limits
        self.end_token_ids = end_token_ids
        self.stop = stop
        self.on_step = on_step
        # A token holds a byte at least, and a character may lie across the edge of what is looked at.
        self.tail = max((len(text.encode()) for text in stop), default=0) + BYTES_OF_A_CHARACTER
        self.lengths = [0] * len(limits)
        self.reasons: list[FinishReason | None] = [None] * len(limits)

    def __call__(self, input_ids: Tensor, _scores: Tensor, **_: Any) -> Tensor:
        """``input_ids`` [batch, seq] to a boolean [batch]: which rows are done."""
        step = input_ids.shape[1] - self.prompt_length
        for row, last in enumerate(input_ids[:, -1].tolist()):
            if self.reasons[row] is None:
                self.lengths[row] = step
                self.reasons[row] = self._reason(input_ids[row, self.prompt_length :], last, row)
        self.on_step(step)
        return torch.tensor([reason is not None for reason in self.reasons], device=input_ids.device)

    def _reason(self, generated: Tensor, last: int, row: int) -> FinishReason | None:
        if last in self.end_token_ids or (self.stop and self._has_stop_text(generated)):
            return "stop"
        return "length" if len(generated) >= self.limits[row] else None

    def _has_stop_text(self, generated: Tensor) -> bool:
        text = self.tokenizer.decode(generated[-self.tail :].tolist(), skip_special_tokens=True)
        return any(stop in text for stop in self.stop)


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """``text`` up to the first of the stop texts."""
    positions = [position for position in (text.find(one) for one in stop) if position >= 0]
    return text[: min(positions)] if positions else text
