"""Checkpoints whose output depends on positions, and llama.cpp for comparison."""

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from baichuan_core import BaichuanConfig, BaichuanForCausalLM, load_model
from examples.tiny_checkpoint import VOCABULARY_SIZE, Family, make_tiny_checkpoint

MakeDeep = Callable[..., Path]
# Control, reserved and byte tokens; llama.cpp's server reports nothing of a step that ends inside a character.
FIRST_CHOICE = 453


@pytest.fixture
def make_deep(tmp_path: Path) -> MakeDeep:
    """Write a narrow checkpoint of any depth with a tokenizer; its attention is sharp, so that positions matter."""

    def make(family: Family, layers: int, **fields: Any) -> Path:
        directory = make_tiny_checkpoint(tmp_path / f"{family}-{layers}", family=family)
        settings = json.loads((directory / "config.json").read_text())
        settings |= {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": layers}
        config = BaichuanConfig(**settings | {"num_attention_heads": 4} | fields)
        torch.manual_seed(1)
        model: Any = BaichuanForCausalLM(config)
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.data.normal_(std=0.2 if "W_pack" in name else 0.1)
        model.save_pretrained(directory)
        return directory

    return make


class LlamaCpp:
    """A GGUF file in llama.cpp's own server, in this process."""

    def __init__(self, file: Path) -> None:
        import xllamacpp  # noqa: PLC0415 - 34 MB of library

        settings = xllamacpp.CommonParams()
        settings.model.path = str(file)
        settings.n_ctx = 512
        settings.cpuparams.n_threads = 1
        settings.verbosity = 0
        settings.warmup = settings.fit_params = False
        # float32 throughout, like our model.
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._server = xllamacpp.Server(settings)

    def post(self, path: str, content: dict[str, Any]) -> Any:
        """The answer to a request."""
        body = json.dumps(content).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._server.listening_address + path, body, headers)  # noqa: S310
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return json.load(answer)

    def greedy(self, input_ids: list[int], count: int) -> tuple[list[int], Tensor]:
        """Return the most likely tokens after a prompt, and the log-probabilities [count, vocab] of each step."""
        request = {"prompt": input_ids, "n_predict": count, "temperature": 0, "n_probs": VOCABULARY_SIZE}
        never = [[token_id, False] for token_id in range(FIRST_CHOICE)]
        answer = self.post("/completion", request | {"return_tokens": True, "logit_bias": never})
        logprobs = torch.full((count, VOCABULARY_SIZE), float("nan"))
        for step, chosen in enumerate(answer["completion_probabilities"]):
            for entry in chosen["top_logprobs"]:
                logprobs[step, entry["id"]] = entry["logprob"]
        return answer["tokens"], logprobs


@torch.no_grad()
def greedy(checkpoint: Path, input_ids: list[int], count: int) -> tuple[list[int], Tensor]:
    """Like `LlamaCpp.greedy`, with our float32 model and without a cache."""
    model = load_model(checkpoint, dtype="float32", device="cpu")
    tokens: list[int] = []
    logprobs = []
    while len(tokens) < count:
        logits = model(torch.tensor([input_ids + tokens])).logits[0, -1]
        logprobs.append(logits.log_softmax(-1))
        tokens.append(FIRST_CHOICE + int(logits[FIRST_CHOICE:].argmax()))
    return tokens, torch.stack(logprobs)


@pytest.fixture(scope="session")
def llama_cpp() -> type[LlamaCpp]:
    """Open a GGUF file in llama.cpp."""
    return LlamaCpp


@pytest.fixture(scope="session")
def our_greedy() -> Callable[[Path, list[int], int], tuple[list[int], Tensor]]:
    """Greedy tokens of a checkpoint."""
    return greedy
