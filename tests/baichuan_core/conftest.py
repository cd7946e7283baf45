"""Golden families and tiny checkpoints for the engine's tests."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from baichuan_core import BaichuanConfig, BaichuanForCausalLM

GOLDEN = Path(__file__).parents[1] / "golden"
FAMILIES = ("baichuan1-7b", "baichuan1-13b", "baichuan2-7b", "baichuan2-13b")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Use one thread, because the matrices are too small to benefit from two."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden_root() -> Path:
    """The folder of the recorded data."""
    return GOLDEN


@pytest.fixture(scope="session", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Path:
    """The golden checkpoint of each family in turn."""
    return GOLDEN / str(request.param)


@pytest.fixture(scope="session")
def golden(family: Path) -> dict[str, Tensor]:
    """The recorded results of the published implementation for this family."""
    return load_file(family / "golden.safetensors")


@pytest.fixture(scope="session")
def load() -> Callable[..., BaichuanForCausalLM]:
    """Load a golden family in eval mode; `norm_head` follows from its name, because its vocabulary is too small."""

    def load_family(directory: Path, **kwargs: Any) -> BaichuanForCausalLM:
        kwargs = {"norm_head": directory.name.startswith("baichuan2"), **kwargs}
        model = AutoModelForCausalLM.from_pretrained(directory, **kwargs)
        assert isinstance(model, BaichuanForCausalLM)
        return model

    return load_family


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Write a random Baichuan 2 checkpoint with tokenizer files, in a shape that every quantization supports."""

    def make(name: str = "base", *, dtype: torch.dtype = torch.float32, seed: int = 0, **fields: Any) -> Path:
        shape = {"vocab_size": 768, "hidden_size": 64, "intermediate_size": 192}
        depth = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
        torch.manual_seed(seed)
        config = BaichuanConfig(**{**shape, **depth, "norm_head": True, **fields})
        directory = tmp_path / name
        model: Any = BaichuanForCausalLM(config)
        model.to(dtype).save_pretrained(directory)
        shutil.copyfile(GOLDEN / "chat" / "tokenizer.model", directory / "tokenizer.model")
        (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "BaichuanTokenizer"}')
        return directory

    return make
