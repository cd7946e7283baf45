"""Tells transformers' generate when each row of a batch has ended."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from baichuan_core.generation.transcript import Transcript


class RowEnds(StoppingCriteria):
    """Feeds the newest token of every row that has not ended to its transcript."""

    def __init__(self, transcripts: Sequence[Transcript]) -> None:
        self.transcripts = transcripts

    def __call__(self, input_ids: Tensor, _scores: Tensor, **_: Any) -> Tensor:
        """``input_ids`` [batch, seq] to a boolean [batch]: which rows are done."""
        for transcript, last in zip(self.transcripts, input_ids[:, -1].tolist(), strict=True):
            if transcript.finish_reason is None:
                transcript.add(last)
        ended = [transcript.finish_reason is not None for transcript in self.transcripts]
        return torch.tensor(ended, device=input_ids.device)
