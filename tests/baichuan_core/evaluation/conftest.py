"""Small benchmarks in their published layouts, and a checkpoint with a context window that fits five examples."""

from collections.abc import Callable
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "data" / "benchmarks"


@pytest.fixture(scope="session")
def data() -> Path:
    """Return the folder of the small benchmarks."""
    return BENCHMARKS


@pytest.fixture
def wide(make_checkpoint: Callable[..., Path]) -> Path:
    """Create a checkpoint with a context window of 2048 tokens."""
    return make_checkpoint("wide", max_position_embeddings=2048)
