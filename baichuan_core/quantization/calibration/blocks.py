"""The calibration itself: block after block, each on what the blocks before it now compute."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from baichuan_core.checkpoint import EMBEDDING, TensorReader
from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import CheckpointError
from baichuan_core.progress import Progress, ProgressCallback

from .code_book import CodeBook
from .compensation import compensate
from .finished_blocks import FinishedBlocks
from .one_block import OneBlock
from .propagation import corrected
from .stored_form import FourBitCode, nest_offset, stored_tensors

# Layers of a block in the order in which they compute; those of one group have the same inputs.
GROUPS = (("self_attn.W_pack",), ("self_attn.o_proj",), ("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",))
HALVES = (GROUPS[:2], GROUPS[2:])
ADD_TO_THE_STATES = {"self_attn.o_proj", "mlp.down_proj"}
TOKENS_AT_ONCE = 2048


@dataclass(slots=True)
class States:
    """Hidden states [rows, length, hidden] between two blocks.

    Attributes:
        exact: What the unquantized model computes.
        quantized: What the blocks that are quantized compute.
    """

    exact: Tensor
    quantized: Tensor

    def batches(self, device: torch.device) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """A few rows at a time on the device: which they are, exact, quantized."""
        rows, length, _ = self.exact.shape
        step = max(1, TOKENS_AT_ONCE // length)
        for start in range(0, rows, step):
            few = slice(start, start + step)
            yield few, self.exact[few].to(device), self.quantized[few].to(device)


@dataclass(slots=True)
class Statistics:
    """Sums over the tokens, for the layers that have the same inputs x.

    Attributes:
        second_moments: x xᵀ, [in, in].
        drift: (x of the unquantized model - x) xᵀ, [in, in].
        state_drift: (states of the unquantized model - states) xᵀ, [hidden, in], for a layer that adds to them.
    """

    second_moments: Tensor
    drift: Tensor
    state_drift: Tensor


@contextmanager
def rounded_products() -> Iterator[None]:
    """Matrix products with factors rounded to TF32 or bfloat16 where the hardware is faster with them.

    What that changes in the inputs of a layer is small beside what 4 bits change.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class BlockCalibrator:
    """Quantizes the blocks of a checkpoint one after the other; holds one of them and the hidden states.

    Args:
        reader: The unquantized checkpoint.
        config: Its configuration.
        code: What the weights become.
        device: Where to compute.
    """

    def __init__(
        self,
        reader: TensorReader,
        config: BaichuanConfig,
        code: FourBitCode,
        device: torch.device,
    ) -> None:
        self._reader = reader
        self._blocks = config.num_hidden_layers
        self._double_quantization = code.double_quantization
        self._device = device
        self._book = CodeBook(code.method, device)
        self._exact, self._quantized = OneBlock(config, device), OneBlock(config, device)

    def run(self, rows: Tensor, finished: FinishedBlocks, on_progress: ProgressCallback) -> None:
        """Do what is not finished yet.

        Args:
            rows: Token ids of the calibration text, [rows, length].
            finished: Gets every block as soon as it is done.
            on_progress: Told after each block.

        Raises:
            CheckpointError: A block computes NaN or infinite numbers.
        """
        done = finished.count
        states = States(**finished.states(done)) if done else self._first_states(rows)
        for number in range(done, self._blocks):
            self._exact.load(self._reader, number)
            self._quantized.load(self._reader, number)
            tensors = self._block(number, states)
            finished.add(number, tensors, {"exact": states.exact, "quantized": states.quantized})
            on_progress(Progress((number + 1) / self._blocks, "calibrating", {"block": float(number + 1)}))

    def _first_states(self, rows: Tensor) -> States:
        embedded = self._reader.read(EMBEDDING)[rows].float()
        return States(embedded, embedded.clone())

    def _block(self, number: int, states: States) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for groups in HALVES:
            for layers in groups:
                tensors |= self._group(number, layers, states)
            self._go_on(groups[-1][0], states)
        return tensors

    def _group(self, number: int, layers: Sequence[str], states: States) -> dict[str, Tensor]:
        """Quantize layers that have the same inputs; their stored tensors by name."""
        statistics = self._statistics(layers[0], states)
        self._require_numbers(statistics.second_moments, number)
        targets = {layer: self._target(number, layer, statistics) for layer in layers}
        moments = statistics.second_moments
        del statistics  # rounding needs the memory of the drifts
        tensors: dict[str, Tensor] = {}
        for layer in layers:
            tensors |= self._layer(f"model.layers.{number}.{layer}", layer, targets.pop(layer), moments)
        return tensors

    def _statistics(self, layer: str, states: States) -> Statistics:
        width = self._exact.weight(layer).shape[1]
        hidden = states.exact.shape[-1]
        sums = Statistics(*(torch.zeros(rows, width, device=self._device) for rows in (width, width, hidden)))
        for _, exact, quantized in states.batches(self._device):
            self._add(sums, layer, exact, quantized)
        tokens = states.exact.shape[0] * states.exact.shape[1]
        for total in (sums.second_moments, sums.drift, sums.state_drift):
            total.div_(tokens)
        return sums

    @torch.inference_mode()
    def _add(self, sums: Statistics, layer: str, exact: Tensor, quantized: Tensor) -> None:
        with rounded_products():
            drift, inputs = self._exact.inputs(layer, exact), self._quantized.inputs(layer, quantized)
        drift -= inputs
        sums.second_moments.addmm_(inputs.T, inputs)
        sums.drift.addmm_(drift.T, inputs)
        if layer in ADD_TO_THE_STATES:
            sums.state_drift.addmm_((exact - quantized).flatten(0, 1).T, inputs)

    def _target(self, number: int, layer: str, statistics: Statistics) -> Tensor:
        """The weight [out, in] that is to be rounded."""
        weight = self._quantized.weight(layer)
        drift = weight @ statistics.drift
        if layer in ADD_TO_THE_STATES:
            drift += statistics.state_drift
        target = corrected(weight, drift, statistics.second_moments)
        self._require_numbers(target, number)
        return target

    def _layer(self, name: str, layer: str, target: Tensor, second_moments: Tensor) -> dict[str, Tensor]:
        """Quantize a layer in place; its stored tensors by name."""
        weight = self._quantized.weight(layer)
        offset = nest_offset(weight) if self._double_quantization else None
        result = compensate(target, second_moments, self._book, offset)
        weight.copy_(result.restored)
        dtype = self._reader.read(f"{name}.weight").dtype
        stored = stored_tensors(result, self._book, offset, dtype)
        return {f"{name}.{ending}": tensor for ending, tensor in stored.items()}

    def _go_on(self, layer: str, states: States) -> None:
        """Take the states through the half that `layer` is in."""
        for rows, exact, quantized in states.batches(self._device):
            with rounded_products():
                states.exact[rows] = self._exact.half_of(layer, exact)
                states.quantized[rows] = self._quantized.half_of(layer, quantized)

    def _require_numbers(self, computed: Tensor, number: int) -> None:
        if not computed.isfinite().all():
            raise CheckpointError(
                f"block {number} of {self._reader.checkpoint} computes NaN or infinite numbers on the calibration "
                "text: use the checkpoint as it was before they came in"
            )
