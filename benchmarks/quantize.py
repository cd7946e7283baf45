"""Compare quantizing a checkpoint with bitsandbytes' kernels on the same tensors, and with copying its files.

Usage: `python -m benchmarks.quantize [--layers 6] [--methods nf4 int8]`

The weights are random. `quantize` also reads the files, measures the error of every weight and writes the result to
disk. CPU seconds are reported in addition to wall seconds, because other work on the machine increases the latter.
"""

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from bitsandbytes import functional
from torch import Tensor

from baichuan_core import BaichuanConfig, QuantizationOptions, load_model, quantize
from baichuan_core.checkpoint import TensorReader, expected_tensors, linear_layers, tensor_writer
from baichuan_core.model.eight_bits import quantize_rows_in_float16
from baichuan_core.model.four_bits import quantize_to_four_bits
from baichuan_core.model.quantization import QUANTIZATION_METHODS, QuantizationMethod

SHARD_BYTES = 3 * 10**8


def write_checkpoint(directory: Path, layers: int) -> BaichuanConfig:
    """Write a bfloat16 checkpoint of Baichuan 2 with half of the widths of 7B."""
    config = BaichuanConfig(
        vocab_size=32000,
        hidden_size=2048,
        intermediate_size=5504,
        num_hidden_layers=layers,
        num_attention_heads=16,
        norm_head=True,
        dtype="bfloat16",
    )
    config.save_pretrained(directory)
    tensors = expected_tensors(config)
    generator = torch.Generator().manual_seed(0)
    with tensor_writer(directory, list(tensors), SHARD_BYTES) as writer:
        for name, shape in tensors.items():
            writer.add(name, torch.randn(shape, generator=generator).mul_(0.02).bfloat16())
    return config


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Return wall and CPU seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - processor


def run_bitsandbytes_kernel(weights: list[Tensor], method: QuantizationMethod) -> None:
    """Compute codes and scales with bitsandbytes."""
    for weight in weights:
        if method == "int8":
            functional.int8_vectorwise_quant(weight.to(torch.float16))
        else:
            functional.quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type=method)


def run_our_kernel(weights: list[Tensor], method: QuantizationMethod) -> None:
    """Compute the same codes and scales with our code."""
    for weight in weights:
        if method == "int8":
            quantize_rows_in_float16(weight)
        else:
            quantize_to_four_bits(weight, method, double_quantization=True)


def measure(directory: Path, config: BaichuanConfig, method: QuantizationMethod) -> None:
    """Measure one method and print the results."""
    options = QuantizationOptions(method)
    with TensorReader(directory) as reader:
        weights = [reader.read(name).clone() for name in linear_layers(config)]
    theirs = seconds(lambda: run_bitsandbytes_kernel(weights, method))
    ours = seconds(lambda: run_our_kernel(weights, method))
    weights.clear()
    whole = seconds(lambda: quantize(directory, directory / method, options))
    streamed = seconds(lambda: load_model(directory, device="cpu", quantization=method))
    shutil.rmtree(directory / method)
    print(f"{method}, seconds (wall, CPU):")
    print(f"  bitsandbytes' kernel on the linear weights  {theirs[0]:7.2f} {theirs[1]:7.2f}")
    ratio = theirs[1] / ours[1]
    print(f"  ours, the same bytes                        {ours[0]:7.2f} {ours[1]:7.2f}   {ratio:.1f}x as fast")
    print(f"  quantize() of the checkpoint                {whole[0]:7.2f} {whole[1]:7.2f}")
    print(f"  load_model(quantization={method!r})             {streamed[0]:7.2f} {streamed[1]:7.2f}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--methods", nargs="+", choices=QUANTIZATION_METHODS, default=["nf4", "int8"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "checkpoint"
        config = write_checkpoint(directory, arguments.layers)
        files = sum(file.stat().st_size for file in directory.iterdir())
        copy = seconds(lambda: shutil.copytree(directory, Path(folder) / "copy"))
        shutil.rmtree(Path(folder) / "copy")
        print(f"{files / 1e9:.2f} GB in bfloat16, {torch.get_num_threads()} threads; copying the files {copy[0]:.2f} s")
        for method in arguments.methods:
            measure(directory, config, method)
    print(f"peak resident memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
