"""The choice of an engine, and the conversion of our options to vLLM's."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from baichuan_core import (
    BaichuanConfig,
    GenerationOptions,
    GenerationRequest,
    TextGenerator,
    UnsupportedError,
    generate,
)
from baichuan_core.generation.engines.contract import Capacity, EncodedRequest, EngineSetup, SamplingSettings
from baichuan_core.generation.engines.vllm import find_model_incompatibility
from baichuan_core.generation.engines.vllm.engine import (
    convert_logprobs,
    make_engine_arguments,
    make_sampling_arguments,
)
from examples.tiny_checkpoint import make_tiny_checkpoint

SAMPLED = SamplingSettings(0.3, 5, 0.85, 1.05, presence_penalty=0.5, frequency_penalty=-1.0, logit_bias=((7, 2.0),))
REQUEST = EncodedRequest(4, 1, (7, 8), 20, 99, SAMPLED, ("stop",), 3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def test_auto_chooses_our_engine_here_and_explains_why(checkpoint: Path) -> None:
    choice = TextGenerator(checkpoint).choice
    assert choice.name == "transformers"
    assert "not vllm: the package vllm is not installed" in choice.reason


def test_a_requested_engine_runs_or_is_rejected_with_the_reason(checkpoint: Path, tmp_path: Path) -> None:
    requests = [GenerationRequest(prompt="a")]
    options = GenerationOptions(engine="transformers", max_new_tokens=2)
    report = generate(checkpoint, requests, tmp_path / "out.jsonl", options)
    assert (report.engine, report.engine_reason) == ("transformers", "requested")
    with pytest.raises(
        UnsupportedError, match="engine 'vllm' cannot run this checkpoint: the package vllm is not installed"
    ):
        generate(checkpoint, requests, tmp_path / "out.jsonl", replace(options, engine="vllm"))


def published(**changed: Any) -> BaichuanConfig:
    """The configuration of Baichuan2-7B-Chat, apart from `changed`."""
    shape = {"vocab_size": 125696, "hidden_size": 4096, "num_attention_heads": 32, "max_position_embeddings": 4096}
    config = BaichuanConfig(**{**shape, "architectures": ["BaichuanForCausalLM"], **changed})
    assert isinstance(config, BaichuanConfig)
    return config


def test_vllm_supports_all_families() -> None:
    alibi: dict[str, Any] = {"hidden_size": 5120, "num_attention_heads": 40, "position_embedding": "alibi"}
    old: dict[str, Any] = {"vocab_size": 64000}
    for config in (published(), published(**alibi), published(**old), published(**old, **alibi)):
        assert find_model_incompatibility(config) is None


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"quantization_config": {"load_in_8bit": True}}, "quantized"),
        ({"tie_word_embeddings": True}, "normalized output head cannot be tied"),
        ({"hidden_act": "gelu"}, "does not support the activation 'gelu'"),
    ],
)
def test_vllm_is_not_used_for_models_it_would_compute_differently(changed: dict[str, Any], reason: str) -> None:
    found = find_model_incompatibility(published(**changed))
    assert found is not None
    assert reason in found


def test_our_options_are_converted_to_those_of_vllm(checkpoint: Path) -> None:
    arguments = make_sampling_arguments(REQUEST, frozenset([2, 1]))
    assert arguments == {
        "n": 1,
        "max_tokens": 20,
        "temperature": 0.3,
        "top_k": 5,
        "top_p": 0.85,
        "repetition_penalty": 1.05,
        "presence_penalty": 0.5,
        "frequency_penalty": -1.0,
        "logit_bias": {7: 2.0},
        "seed": 99,
        "stop_token_ids": [1, 2],
        "ignore_eos": True,
        "logprobs": 3,
        "detokenize": False,
    }
    greedy = replace(REQUEST, sampling=SamplingSettings(0, 0, 1.0, 1.0), logprobs=None)
    arguments = make_sampling_arguments(greedy, frozenset())
    assert (arguments["temperature"], arguments["top_k"], arguments["seed"], arguments["logprobs"]) == (
        0,
        -1,
        None,
        None,
    )
    config = AutoConfig.from_pretrained(checkpoint)
    setup = EngineSetup(checkpoint, config, GenerationOptions(batch_size=7, dtype="bfloat16"), frozenset([2]))
    engine = make_engine_arguments(setup, Capacity(7, 256))
    assert engine["model"] == str(checkpoint)
    assert (engine["dtype"], engine["max_model_len"], engine["max_num_seqs"]) == ("bfloat16", 256, 7)
    keys_and_values = 2 * config.num_hidden_layers * config.hidden_size * 2  # bytes per token
    assert engine["kv_cache_memory_bytes"] == (7 * 256 + 256) * keys_and_values
    exact = replace(setup, settings=GenerationOptions(dtype="auto"))
    config.dtype = "float32"
    assert make_engine_arguments(exact, Capacity(7, 256))["dtype"] == "float32"
    assert (
        make_engine_arguments(exact, Capacity(7, 256))["kv_cache_memory_bytes"] == 2 * engine["kv_cache_memory_bytes"]
    )


@dataclass
class Logprob:
    """Like vLLM's `Logprob`, without the fields that do not matter here."""

    logprob: float


def test_logprobs_of_vllm_are_converted_to_ours() -> None:
    found = convert_logprobs(9, {9: Logprob(-4.0), 3: Logprob(-0.1), 5: Logprob(-2.0)}, 2)
    assert (found.token_id, found.logprob, found.alternatives) == (9, -4.0, ((3, -0.1), (5, -2.0)))
