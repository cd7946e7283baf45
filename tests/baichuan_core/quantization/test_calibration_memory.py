"""What is predicted of a calibration, against what a process of its own takes for it: within 5%."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from baichuan_core import BaichuanConfig, BaichuanForCausalLM
from examples.tiny_checkpoint import make_tiny_checkpoint
from footprint import Shape, calibrating, read_config

ROOT = Path(__file__).parents[3]
WITHIN = 0.05
SUMMING = {"hidden_size": 256, "intermediate_size": 2048}
SOLVING = {"hidden_size": 128, "intermediate_size": 5120}
ROPE, ALIBI = {"max_position_embeddings": 512}, {"model_max_length": 512}


def make_checkpoint(folder: Path, **sizes: Any) -> Path:
    torch.manual_seed(0)
    config = BaichuanConfig(vocab_size=1024, num_attention_heads=4, num_hidden_layers=1, **sizes)
    model: Any = BaichuanForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def measured_bytes(checkpoint: Path, sequences: int, folder: Path) -> int:
    """By the operating system; freed memory goes back at once, as that of a large model's tensors does anywhere."""
    warm = make_tiny_checkpoint(folder / "tiny")
    arguments = [str(warm), str(checkpoint), str(sequences), str(folder)]
    module = "tests.baichuan_core.quantization.calibration_memory"
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    return int(
        subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
    )


@pytest.mark.parametrize(
    ("sizes", "sequences"),
    [(SUMMING | ROPE, 4), (SUMMING | ALIBI, 32), (SOLVING | ROPE, 4)],
    ids=["summing", "many states", "solving"],
)
def test_a_calibration(tmp_path: Path, sizes: dict[str, int], sequences: int) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", **sizes)
    needs = calibrating(Shape.from_config(read_config(checkpoint)), sequences=sequences)
    assert needs.total == pytest.approx(measured_bytes(checkpoint, sequences, tmp_path), rel=WITHIN)
