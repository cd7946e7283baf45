"""The device of a run and the dtype of its computations."""

from dataclasses import dataclass

import torch

from baichuan_core.errors import UnsupportedError
from baichuan_core.finetuning.distributed.group import SINGLE_RANK, RankGroup
from baichuan_core.finetuning.options import FinetuningOptions


@dataclass(frozen=True, slots=True)
class Hardware:
    """The device of a run, and whether it computes in bfloat16 with mixed precision."""

    device: str
    bfloat16: bool

    @property
    def is_cpu(self) -> bool:
        """Whether training runs on the CPU."""
        return self.device == "cpu"

    @classmethod
    def from_options(cls, options: FinetuningOptions, group: RankGroup = SINGLE_RANK) -> "Hardware":
        """Return the device and dtype set in `options`; if one is None, choose one that suits the machine.

        Each rank of a group uses the GPU whose index is its local rank.

        Raises:
            UnsupportedError: Training cannot use the device, or the optimizer has no kernels for it.
        """
        if options.device not in (None, "cpu", "cuda", "cuda:0"):
            raise UnsupportedError(
                f"device {options.device!r} is not supported for training; use 'cpu' or 'cuda', and choose one of"
                " several GPUs with CUDA_VISIBLE_DEVICES"
            )
        device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if options.optimizer != "adamw" and device == "cpu":
            raise UnsupportedError(f"optimizer {options.optimizer!r} requires a CUDA device; use 'adamw' on a CPU")
        bfloat16 = device != "cpu" if options.dtype is None else options.dtype == "bfloat16"
        if device == "cuda" and group.size > 1:
            device = f"cuda:{group.local_rank}"
        return cls(device, bfloat16)
