"""Calibrates a model block by block, running each block on the outputs of the quantized blocks before it."""

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
from .compensation import quantize_with_compensation
from .finished_blocks import FinishedBlocks
from .one_block import SingleBlockDecoder
from .propagation import correct_weight
from .storage_format import FourBitFormat, build_stored_tensors, compute_scale_offset

# Layers of a block in order of computation; the layers of a group have the same inputs.
LAYER_GROUPS = (("self_attn.W_pack",), ("self_attn.o_proj",), ("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",))
SUBLAYERS = (LAYER_GROUPS[:2], LAYER_GROUPS[2:])
RESIDUAL_LAYERS = {"self_attn.o_proj", "mlp.down_proj"}
BATCH_TOKENS = 2048


@dataclass(slots=True)
class HiddenStates:
    """Hidden states [rows, length, hidden] between two blocks.

    Attributes:
        exact: Hidden states of the unquantized model.
        quantized: Hidden states computed by the blocks quantized so far.
    """

    exact: Tensor
    quantized: Tensor

    def iterate_batches(self, device: torch.device) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield batches of rows on the device, as (rows, exact, quantized)."""
        rows, length, _ = self.exact.shape
        step = max(1, BATCH_TOKENS // length)
        for start in range(0, rows, step):
            few = slice(start, start + step)
            yield few, self.exact[few].to(device), self.quantized[few].to(device)


@dataclass(slots=True)
class InputStatistics:
    """Means over all tokens, for a group of layers with the same inputs x.

    Attributes:
        second_moments: x xᵀ, [in, in].
        drift: (x of the unquantized model - x) xᵀ, [in, in].
        state_drift: (states of the unquantized model - states) xᵀ, [hidden, in]; only for layers whose output is added
            to the hidden states.
    """

    second_moments: Tensor
    drift: Tensor
    state_drift: Tensor


@contextmanager
def allow_reduced_precision() -> Iterator[None]:
    """Let matrix products round their operands to TF32 or bfloat16 if that is faster on this hardware.

    This changes the inputs of a layer far less than quantizing to 4 bits does.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class BlockCalibrator:
    """A calibrator that quantizes the blocks of a checkpoint in turn, with one block and the hidden states in memory.

    Args:
        reader: The unquantized checkpoint.
        config: Configuration of the checkpoint.
        code: The 4-bit format to quantize to.
        device: Device to compute on.
    """

    def __init__(
        self,
        reader: TensorReader,
        config: BaichuanConfig,
        code: FourBitFormat,
        device: torch.device,
    ) -> None:
        self._reader = reader
        self._blocks = config.num_hidden_layers
        self._double_quantization = code.double_quantization
        self._device = device
        self._book = CodeBook(code.method, device)
        self._exact, self._quantized = SingleBlockDecoder(config, device), SingleBlockDecoder(config, device)

    def run(self, rows: Tensor, finished: FinishedBlocks, on_progress: ProgressCallback) -> None:
        """Calibrate the blocks that are not finished yet.

        Args:
            rows: Token ids of the calibration text, [rows, length].
            finished: Store of finished blocks; each block is added as soon as it is done.
            on_progress: Called after each block.

        Raises:
            CheckpointError: A block produces NaN or infinite values.
        """
        done = finished.count
        states = HiddenStates(**finished.load_states(done)) if done else self._compute_initial_states(rows)
        for number in range(done, self._blocks):
            self._exact.load(self._reader, number)
            self._quantized.load(self._reader, number)
            tensors = self._quantize_block(number, states)
            finished.add(number, tensors, {"exact": states.exact, "quantized": states.quantized})
            on_progress(Progress((number + 1) / self._blocks, "calibrating", {"block": float(number + 1)}))

    def _compute_initial_states(self, rows: Tensor) -> HiddenStates:
        embedded = self._reader.read(EMBEDDING)[rows].float()
        return HiddenStates(embedded, embedded.clone())

    def _quantize_block(self, number: int, states: HiddenStates) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for groups in SUBLAYERS:
            for layers in groups:
                tensors |= self._quantize_group(number, layers, states)
            self._advance_states(groups[-1][0], states)
        return tensors

    def _quantize_group(self, number: int, layers: Sequence[str], states: HiddenStates) -> dict[str, Tensor]:
        """Quantize layers that have the same inputs; return the tensors to store, by name."""
        statistics = self._collect_statistics(layers[0], states)
        self._require_finite(statistics.second_moments, number)
        targets = {layer: self._compute_target(number, layer, statistics) for layer in layers}
        moments = statistics.second_moments
        del statistics  # free the drift matrices: rounding needs the memory
        tensors: dict[str, Tensor] = {}
        for layer in layers:
            tensors |= self._quantize_layer(f"model.layers.{number}.{layer}", layer, targets.pop(layer), moments)
        return tensors

    def _collect_statistics(self, layer: str, states: HiddenStates) -> InputStatistics:
        width = self._exact.get_weight(layer).shape[1]
        hidden = states.exact.shape[-1]
        sums = InputStatistics(*(torch.zeros(rows, width, device=self._device) for rows in (width, width, hidden)))
        for _, exact, quantized in states.iterate_batches(self._device):
            self._accumulate_statistics(sums, layer, exact, quantized)
        tokens = states.exact.shape[0] * states.exact.shape[1]
        for total in (sums.second_moments, sums.drift, sums.state_drift):
            total.div_(tokens)
        return sums

    @torch.inference_mode()
    def _accumulate_statistics(self, sums: InputStatistics, layer: str, exact: Tensor, quantized: Tensor) -> None:
        with allow_reduced_precision():
            drift, inputs = self._exact.compute_inputs(layer, exact), self._quantized.compute_inputs(layer, quantized)
        drift -= inputs
        sums.second_moments.addmm_(inputs.T, inputs)
        sums.drift.addmm_(drift.T, inputs)
        if layer in RESIDUAL_LAYERS:
            sums.state_drift.addmm_((exact - quantized).flatten(0, 1).T, inputs)

    def _compute_target(self, number: int, layer: str, statistics: InputStatistics) -> Tensor:
        """Return the weight [out, in] to quantize: the original, corrected for the errors of earlier layers."""
        weight = self._quantized.get_weight(layer)
        drift = weight @ statistics.drift
        if layer in RESIDUAL_LAYERS:
            drift += statistics.state_drift
        target = correct_weight(weight, drift, statistics.second_moments)
        self._require_finite(target, number)
        return target

    def _quantize_layer(self, name: str, layer: str, target: Tensor, second_moments: Tensor) -> dict[str, Tensor]:
        """Quantize a layer in place; return the tensors to store, by name."""
        weight = self._quantized.get_weight(layer)
        offset = compute_scale_offset(weight) if self._double_quantization else None
        result = quantize_with_compensation(target, second_moments, self._book, offset)
        weight.copy_(result.dequantized)
        dtype = self._reader.read(f"{name}.weight").dtype
        stored = build_stored_tensors(result, self._book, offset, dtype)
        return {f"{name}.{ending}": tensor for ending, tensor in stored.items()}

    def _advance_states(self, layer: str, states: HiddenStates) -> None:
        """Advance the hidden states through the sublayer that contains `layer`."""
        for rows, exact, quantized in states.iterate_batches(self._device):
            with allow_reduced_precision():
                states.exact[rows] = self._exact.run_sublayer(layer, exact)
                states.quantized[rows] = self._quantized.run_sublayer(layer, quantized)

    def _require_finite(self, computed: Tensor, number: int) -> None:
        if not computed.isfinite().all():
            raise CheckpointError(
                f"block {number} of {self._reader.checkpoint} produces NaN or infinite values on the calibration "
                "text: use an earlier, undamaged checkpoint"
            )
