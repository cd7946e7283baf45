"""Models with both kinds of position embeddings and heads, and token ids to score."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from baichuan_core import BaichuanForCausalLM
from baichuan_core.checkpoint import load_model

VOCABULARY = 768


@pytest.fixture(params=["rope", "alibi"])
def model(request: pytest.FixtureRequest, make_checkpoint: Callable[..., Path]) -> BaichuanForCausalLM:
    """Create a random model: Baichuan 2 with RoPE and NormHead, or Baichuan 1 with ALiBi and a plain head."""
    alibi = {"max_position_embeddings": None, "model_max_length": 128, "norm_head": False}
    fields = alibi if request.param == "alibi" else {}
    return load_model(make_checkpoint(**fields, initializer_range=0.2), device="cpu")


@pytest.fixture
def ids() -> list[int]:
    """Return 150 random token ids."""
    return torch.randint(3, VOCABULARY, (150,), generator=torch.Generator().manual_seed(1)).tolist()
