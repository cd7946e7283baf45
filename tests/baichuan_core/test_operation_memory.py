"""Memory estimates of quantize, convert and generate, compared with the memory of a separate process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from baichuan_core import BaichuanConfig, BaichuanForCausalLM, QuantizationOptions, quantize
from examples.tiny_checkpoint import make_tiny_checkpoint
from footprint import (
    ModelShape,
    Precision,
    estimate_calibration,
    estimate_conversion,
    estimate_inference,
    estimate_quantization,
    read_config,
)

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.alone
WITHIN = 0.05
SUMMING = {"hidden_size": 256, "intermediate_size": 2048}
SOLVING = {"hidden_size": 128, "intermediate_size": 5120}
WIDE = {"hidden_size": 1024, "intermediate_size": 4096}
ROPE, ALIBI = {"max_position_embeddings": 512}, {"model_max_length": 512}

Measure = Callable[..., int]


def make_checkpoint(folder: Path, *, vocab_size: int = 1024, **sizes: Any) -> Path:
    torch.manual_seed(0)
    config = BaichuanConfig(vocab_size=vocab_size, num_attention_heads=4, num_hidden_layers=1, norm_head=True, **sizes)
    model: Any = BaichuanForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def shape_of(checkpoint: Path) -> ModelShape:
    return ModelShape.from_config(read_config(checkpoint))


@pytest.fixture
def measured_bytes(tmp_path: Path) -> Measure:
    """Measure memory with the operating system; freed memory is returned immediately, as for large tensors."""

    def measure(operation: str, checkpoint: Path, warm: Path | None = None, **options: Any) -> int:
        warm = warm or make_tiny_checkpoint(tmp_path / "tiny")
        task = {"operation": operation, "warm": str(warm), "checkpoint": str(checkpoint), "folder": str(tmp_path)}
        command = [sys.executable, "-m", "tests.baichuan_core.operation_memory", json.dumps(task | options)]
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
        return int(done.stdout)

    return measure


@pytest.mark.parametrize(
    ("sizes", "sequences"),
    [(SUMMING | ROPE, 4), (SUMMING | ALIBI, 32), (SOLVING | ROPE, 4)],
    ids=["summing", "many states", "solving"],
)
def test_a_calibration(tmp_path: Path, measured_bytes: Measure, sizes: dict[str, int], sequences: int) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", **sizes)
    needs = estimate_calibration(shape_of(checkpoint), sequences=sequences)
    measured = measured_bytes("quantize", checkpoint, options={"method": "nf4"}, sequences=sequences)
    assert needs.total == pytest.approx(measured, rel=WITHIN)


@pytest.mark.parametrize("quantize_head", [False, True])
def test_int8_takes_most_of_what_is_quantized_plainly(
    tmp_path: Path, measured_bytes: Measure, quantize_head: bool
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", vocab_size=8192, **WIDE)
    needs = estimate_quantization(shape_of(checkpoint), quantize_head=quantize_head)
    options = {"method": "int8", "quantize_head": quantize_head}
    assert needs.place == "host"
    assert needs.total == pytest.approx(measured_bytes("quantize", checkpoint, options=options), rel=WITHIN)


@pytest.mark.parametrize(
    ("quantized", "options", "least"),
    [
        # The maximum of all conversions, so that a doubled peak is noticed.
        (QuantizationOptions("nf4"), {"target": "gguf", "gguf_type": "q4_0"}, 0.7),
        (QuantizationOptions("int8", quantize_head=True), {"target": "baichuan1"}, 0.0),
        (None, {"target": "baichuan1"}, 0.0),
    ],
    ids=["nf4 to GGUF", "scales of the head", "head"],
)
def test_a_conversion(
    tmp_path: Path,
    measured_bytes: Measure,
    quantized: QuantizationOptions | None,
    options: dict[str, str],
    least: float,
) -> None:
    sources = [make_tiny_checkpoint(tmp_path / "small"), make_checkpoint(tmp_path / "large", vocab_size=16_384, **WIDE)]
    (sources[1] / "tokenizer.model").write_bytes((sources[0] / "tokenizer.model").read_bytes())
    if quantized is not None:
        for source in sources:
            quantize(source, tmp_path / f"{source.name}-quantized", quantized)
        sources = [tmp_path / f"{source.name}-quantized" for source in sources]
    promised = estimate_conversion(threads=1).total
    assert least * promised < measured_bytes("convert", sources[1], sources[0], options=options) <= promised


@pytest.mark.parametrize("positions", [ROPE, ALIBI], ids=["rope", "alibi"])
def test_a_generate_run(tmp_path: Path, measured_bytes: Measure, positions: dict[str, int]) -> None:
    sources = [
        make_tiny_checkpoint(tmp_path / "small"),
        make_checkpoint(tmp_path / "large", vocab_size=4096, **WIDE, **positions),
    ]
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (sources[1] / name).write_bytes((sources[0] / name).read_bytes())
    options = {"max_new_tokens": 4, "batch_size": 4, "temperature": 0, "device": "cpu", "dtype": "float32"}
    prompts = [f"{number}: " + "hello world " * 20 for number in range(4)]
    measured = measured_bytes("generate", sources[1], sources[0], options=options, prompts=prompts)
    tokens = json.loads((tmp_path / "measured").read_text().splitlines()[0])["prompt_tokens"] + 4
    needs = estimate_inference(shape_of(sources[1]), Precision("float32"), batch=4, tokens=tokens)
    assert needs.total == pytest.approx(measured, rel=WITHIN)
