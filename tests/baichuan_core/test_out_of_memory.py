"""Running out of memory on a CPU: the system limits the memory of a process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from baichuan_core.out_of_memory import is_out_of_memory
from examples.tiny_checkpoint import make_tiny_checkpoint

ROOT = Path(__file__).parents[2]
MIB = 2**20
FAILING_ALLOCATIONS = """
import sys
import numpy, torch
from baichuan_core.out_of_memory import is_out_of_memory
from tests.baichuan_core.little_memory import limit_memory
limit_memory(256 * 2**20)
for allocate in (lambda: torch.zeros(2**28), lambda: numpy.ones((2**14, 2**14)), lambda: bytearray(2**30)):
    try:
        allocate()
    except Exception as error:
        print(isinstance(error, MemoryError), is_out_of_memory(error))
"""


def printed(*arguments: str) -> str:
    """Return the output of a Python process with one thread, because each thread needs memory."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True, text=True
    )
    return done.stdout


@pytest.mark.alone
def test_failed_allocations_are_distinguished_from_other_errors() -> None:
    assert printed("-c", FAILING_ALLOCATIONS).splitlines() == [
        "False True",
        "True True",
        "True True",
    ]
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as wrong_shapes:
        torch.zeros(2, 3) @ torch.zeros(2, 3)
    assert not is_out_of_memory(wrong_shapes.value)


@pytest.mark.alone
def test_generation_halves_its_batch_if_a_cpu_runs_out_of_memory(tmp_path: Path) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "tiny")
    module = "tests.baichuan_core.little_memory"
    rows, answered = json.loads(printed("-m", module, str(checkpoint), "0"))
    assert (rows, answered) == ([8], list(range(8)))
    rows, answered = json.loads(printed("-m", module, str(checkpoint), str(200 * MIB)))
    assert rows[0] == 8
    assert 1 <= rows[-1] <= 4
    assert answered == list(range(8))
