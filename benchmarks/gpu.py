"""Run all measurements that need a GPU: `python -m benchmarks.gpu`; `--tiny` uses tiny shapes that run anywhere.

Weights are random and created on the device. Without a GPU the same code runs on the CPU: decoding is traced but not
compiled to CUDA graphs, and the bandwidth is that of main memory.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, StaticCache

from baichuan_core import BaichuanConfig, BaichuanForCausalLM
from baichuan_core.checkpoint import load_tokenizer
from baichuan_core.generation import GenerationOptions
from baichuan_core.generation.engines import vllm
from baichuan_core.generation.engines.capacity import compute_capacity
from baichuan_core.generation.engines.contract import EncodedRequest, EngineSetup, SamplingSettings
from baichuan_core.generation.engines.native.engine import NativeEngine
from baichuan_core.generation.open_batch import OpenBatch
from baichuan_core.memory import measure_peak_memory
from benchmarks.gpu_training import Case, peak_flops, stored_bytes, train_case
from examples.tiny_checkpoint import make_tiny_checkpoint
from footprint import GIB, PRESETS, ModelShape, Precision, estimate_inference

MIB = 2**20
QLORA_BYTES = 16 * 10**9  # what training 13B by QLoRA may take: a card with 16 GB
MIN_REAL_TOKENS = 16  # tiny runs decode fewer tokens
TINY: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 384, "layers": 2, "heads": 4, "vocab_size": 1024}
PRECISIONS = {
    "bf16": Precision("bfloat16"),
    "int8": Precision("bfloat16", "int8"),
    "nf4": Precision("bfloat16", "nf4"),
    "int8, 8-bit head": Precision("bfloat16", "int8", quantize_head=True),
    "nf4, 8-bit head": Precision("bfloat16", "nf4", quantize_head=True),
}
GREEDY = SamplingSettings(temperature=0, top_k=0, top_p=1, repetition_penalty=1)


@dataclass(frozen=True)
class Sizes:
    """Sizes of all measurements."""

    shapes: dict[str, ModelShape]
    copied: int
    decoded: int
    prefills: tuple[int, ...]
    prompts: int
    new_tokens: int


def make_sizes(*, tiny: bool) -> Sizes:
    """Return the published shapes, or tiny ones of the same two families."""
    shapes = {"7B": PRESETS["baichuan2-7b"], "13B": PRESETS["baichuan2-13b"]}
    if not tiny:
        return Sizes(shapes, copied=2 * GIB, decoded=128, prefills=(4096, 8192), prompts=128, new_tokens=128)
    small = {name: replace(shape, **TINY) for name, shape in shapes.items()}
    return Sizes(small, copied=GIB // 16, decoded=8, prefills=(256, 512), prompts=6, new_tokens=8)


def make_model(shape: ModelShape, precision: Precision, device: torch.device) -> BaichuanForCausalLM:
    """Create a model with random weights on the device and quantize it there."""
    config = BaichuanConfig(
        vocab_size=shape.vocab_size, hidden_size=shape.hidden_size, intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, model_max_length=2 * shape.context_length,
        position_embedding=shape.position_embedding, norm_head=shape.norm_head,
    )  # fmt: skip
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = BaichuanForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    model.train(False)
    if precision.quantization == "int8":
        model.quantize(8, quantize_head=precision.quantize_head)
    elif precision.quantization is not None:
        model.quantize(4, quant_type=precision.quantization, quantize_head=precision.quantize_head)
    return model


def measure_seconds(run: Callable[[], Any], device: torch.device, repeats: int = 3) -> float:
    """Return the shortest time of several runs, after a warm-up run."""
    times = []
    for _ in range(repeats + 1):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_bandwidth(count: int, device: torch.device) -> float:
    """Return the bytes per second that a copy reads and writes."""
    source = torch.empty(count, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    return 2 * count / measure_seconds(lambda: target.copy_(source), device, repeats=10)


@torch.no_grad()
def decode_seconds(model: BaichuanForCausalLM, steps: int, device: torch.device) -> float:
    """Return the seconds per token of one stream, with a static cache and a compiled step (CUDA graphs on a GPU)."""
    ids = torch.randint(3, model.config.vocab_size, (1, 32), device=device)
    cache = StaticCache(config=model.config, max_cache_len=64 + 6 * steps)
    token = model(ids, past_key_values=cache).logits[:, -1:].argmax(dim=-1)
    settings: dict[str, Any] = {"mode": "reduce-overhead"} if device.type == "cuda" else {"backend": "eager"}
    step: Any = torch.compile(model.forward, **settings)

    def run() -> None:
        nonlocal token
        for _ in range(steps):
            token = step(token, past_key_values=cache).logits.argmax(dim=-1)

    return measure_seconds(run, device) / steps


def measure_decoding(size: Sizes, device: torch.device) -> Iterator[tuple[str, str]]:
    """Measure single-stream decoding as a fraction of the bandwidth limit."""
    bandwidth = copy_bandwidth(size.copied, device)
    yield "copy bandwidth", f"{bandwidth / 1e9:.1f} GB/s"
    shape = size.shapes["7B"]
    for name in ("bf16", "nf4"):
        embedding = shape.vocab_size * shape.hidden_size * 2
        read = PRECISIONS[name].weight_bytes(shape) - embedding
        model = make_model(shape, PRECISIONS[name], device)
        spent = decode_seconds(model, size.decoded, device)
        fraction = read / bandwidth / spent
        yield (
            f"decode 7B {name}",
            f"{1 / spent:.1f} tokens/s, {read / 1e9:.3f} GB per token, {fraction:.1%} of the bandwidth limit",
        )
        del model


@torch.no_grad()
def measure_prefills(size: Sizes, device: torch.device) -> Iterator[tuple[str, str]]:
    """Measure long ALiBi prompts: throughput, and memory in addition to the weights."""
    shape = size.shapes["13B"]
    model = make_model(shape, PRECISIONS["bf16"], device)
    for tokens in size.prefills:
        ids = torch.randint(3, shape.vocab_size, (1, tokens), device=device)
        spent = measure_seconds(partial(model, ids, logits_to_keep=1), device)
        with measure_peak_memory(device) as peak:
            model(ids, logits_to_keep=1)
        expected = estimate_inference(shape, PRECISIONS["bf16"], batch=1, tokens=tokens)
        expected_mib, mask_mib = (expected.cache + expected.activations) / MIB, shape.heads * tokens**2 * 2 / MIB
        additional = f"{peak.bytes / MIB:,.1f} MiB in addition to the weights (estimate {expected_mib:,.1f})"
        yield (
            f"prefill 13B (ALiBi), {tokens} tokens",
            f"{tokens / spent:.0f} tokens/s, {additional}; a mask for every head would take {mask_mib:,.1f} MiB",
        )


def measure_weights(size: Sizes, device: torch.device) -> Iterator[tuple[str, str]]:
    """Compare the memory of models on the device with the estimates of `baichuan estimate`."""
    for shape_name, shape in size.shapes.items():
        for name, precision in PRECISIONS.items():
            before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
            model = make_model(shape, precision, device)
            _collect(device)
            taken = torch.cuda.memory_allocated(device) - before if device.type == "cuda" else stored_bytes(model)
            expected = precision.weight_bytes(shape)
            deviation = taken / expected - 1
            yield (
                f"weights {shape_name} {name}",
                f"{taken / GIB:.4f} GiB, estimate {expected / GIB:.4f} ({deviation:+.2%})",
            )
            del model


def measure_batches(size: Sizes, device: torch.device) -> Iterator[tuple[str, str]]:
    """Measure useful tokens per second for many prompts: our engine, `generate_batch`, and vLLM if installed."""
    shape = size.shapes["7B"]
    model = make_model(shape, PRECISIONS["bf16"], device)
    generator = torch.Generator().manual_seed(0)
    longest = shape.context_length // 8
    lengths = torch.randint(16, longest, (size.prompts,), generator=generator).tolist()
    prompts = [torch.randint(3, shape.vocab_size, (count,), generator=generator).tolist() for count in lengths]
    total = size.prompts * size.new_tokens
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = load_tokenizer(make_tiny_checkpoint(Path(folder)))
    # Both our engine and vLLM run all prompts at once.
    room = size.prompts * shape.context_length // 4
    options = GenerationOptions(
        batch_size=size.prompts, batch_tokens=room, dtype="bfloat16", device=device.type, engine="transformers"
    )
    engine = OpenBatch(NativeEngine(model, tokenizer, options, frozenset()))
    requests = [EncodedRequest(index, 0, tuple(ids), size.new_tokens, 0, GREEDY) for index, ids in enumerate(prompts)]
    ours = measure_seconds(partial(_run_all, engine, requests, options), device, repeats=1)
    yield "batch 7B, our engine", f"{total / ours:.1f} tokens/s"
    settings = GenerationConfig(max_new_tokens=size.new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
    engine.close()
    _collect(device)  # generate_batch takes all free memory
    theirs = measure_seconds(partial(model.generate_batch, prompts, generation_config=settings), device, repeats=1)
    yield (
        "batch 7B, transformers' generate_batch",
        f"{total / theirs:.1f} tokens/s, ours {theirs / ours:.2f}x as fast",
    )
    with tempfile.TemporaryDirectory() as folder:
        setup = EngineSetup(Path(folder), model.config, replace(options, engine="vllm"), frozenset())
        if reason := vllm.find_unsupported_reason(setup):
            yield "batch 7B, vLLM", f"not run: {reason}"
            return
        model.save_pretrained(folder)
        del model, engine
        _collect(device)
        others = measure_seconds(
            partial(_run_all, OpenBatch(vllm.create_engine(setup, tokenizer)), requests, options), device, repeats=1
        )
        yield "batch 7B, vLLM", f"{total / others:.1f} tokens/s, ours {others / ours:.2f}x as fast"


def _run_all(batch: OpenBatch, requests: list[EncodedRequest], options: GenerationOptions) -> None:
    for _ in batch.submit(requests, capacity=compute_capacity(requests, options)):
        pass


def _collect(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def measure_training(size: Sizes, device: torch.device) -> Iterator[tuple[str, str]]:
    """Measure training of 7B in full and by LoRA, and of 13B by QLoRA."""
    seven, thirteen = size.shapes["7B"], size.shapes["13B"]
    long, short = (2048, 512) if size.new_tokens > MIN_REAL_TOKENS else (64, 32)
    cases = [
        (Case(f"train 7B LoRA, 4 x {long} tokens", seven, 4, long), PRECISIONS["bf16"]),
        (
            Case(f"train 13B QLoRA, 4 x {short} tokens", thirteen, 4, short, limit=QLORA_BYTES),
            PRECISIONS["nf4, 8-bit head"],
        ),
        (Case(f"train 7B full, 1 x {long} tokens", seven, 1, long, full=True), PRECISIONS["bf16"]),
    ]
    peak = peak_flops(device, partial(_product_flops, device))
    for case, precision in cases:
        yield from train_case(
            case, make_model(case.shape, precision, device), device, lambda step: measure_seconds(step, device), peak
        )
        _collect(device)


def _product_flops(device: torch.device) -> float:
    """Return the FLOPs per second of a product of two large matrices in bfloat16."""
    width = 8192 if device.type == "cuda" else 512
    left = torch.randn(width, width, device=device, dtype=torch.bfloat16)
    return float(2 * width**3 / measure_seconds(lambda: left @ left, device))


MEASUREMENTS = {
    "training": measure_training,
    "decoding": measure_decoding,
    "prefills": measure_prefills,
    "weights": measure_weights,
    "batches": measure_batches,
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="use tiny shapes that run on any machine")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--figures", nargs="+", choices=MEASUREMENTS, default=list(MEASUREMENTS))
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    size = make_sizes(tiny=arguments.tiny)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"| {name}{', tiny shapes' if arguments.tiny else ''} | |\n| --- | --- |")
    for measurement in arguments.figures:
        torch._dynamo.reset()
        try:
            for label, value in MEASUREMENTS[measurement](size, device):
                print(f"| {label} | {value} |", flush=True)
        except torch.OutOfMemoryError as error:
            print(f"| {measurement} | does not fit on this device: {str(error).splitlines()[0]} |", flush=True)
        _collect(device)


if __name__ == "__main__":
    main()
