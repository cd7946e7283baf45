"""The device of a run, and the dtype that it computes in."""

from dataclasses import dataclass

import torch

from baichuan_core.errors import UnsupportedError
from baichuan_core.finetuning.distributed.group import ALONE, RankGroup
from baichuan_core.finetuning.options import FinetuningOptions


@dataclass(frozen=True, slots=True)
class Hardware:
    """Where training runs and what it computes in, ``bfloat16`` being mixed precision."""

    device: str
    bfloat16: bool

    @property
    def is_cpu(self) -> bool:
        """Whether there is no GPU in it."""
        return self.device == "cpu"

    @classmethod
    def of(cls, options: FinetuningOptions, group: RankGroup = ALONE) -> "Hardware":
        """Return what ``options`` ask for, with the gaps filled by what the machine has.

        Each rank of a group has the GPU with its local number.

        Raises:
            UnsupportedError: A device that training cannot use, or an optimizer without kernels on it.
        """
        if options.device not in (None, "cpu", "cuda", "cuda:0"):
            raise UnsupportedError(
                f"device {options.device!r} cannot be trained on; use 'cpu' or 'cuda', and choose among several"
                " GPUs by CUDA_VISIBLE_DEVICES"
            )
        device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if options.optimizer != "adamw" and device == "cpu":
            raise UnsupportedError(f"optimizer {options.optimizer!r} needs a CUDA device; use 'adamw' on a CPU")
        bfloat16 = device != "cpu" if options.dtype is None else options.dtype == "bfloat16"
        if device == "cuda" and group.size > 1:
            device = f"cuda:{group.local_rank}"
        return cls(device, bfloat16)
