"""Bias and penalties against a plain loop that follows OpenAI's definition, in every engine that supports them."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from baichuan_core import GenerationOptions, GenerationRequest, TextGenerator, UnsupportedError, convert, generate
from baichuan_core.checkpoint import load_model, load_tokenizer
from baichuan_core.generation.engines.contract import EncodedRequest
from baichuan_core.generation.seeds import compute_uniform_numbers
from examples.tiny_checkpoint import make_tiny_checkpoint

PROMPTS = ["Redis only carries messages, messages", "a a a a a a", "任务", "x"]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"presence_penalty": 1.5},
    {"frequency_penalty": 0.7},
    {"presence_penalty": -2.0, "frequency_penalty": 0.3},
    {"logit_bias": {300: 4.0, 301: -100.0, 602: -3.5}},
    {"logit_bias": {700: 100}, "frequency_penalty": 2.0},
]
GREEDY = GenerationOptions(max_new_tokens=24, temperature=0, repetition_penalty=1.0)
SAMPLED = GenerationOptions(max_new_tokens=24, temperature=0.8, top_k=0, top_p=1.0, repetition_penalty=1.2, seed=4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


def requests_of(settings: dict[str, Any]) -> list[GenerationRequest]:
    return [GenerationRequest(prompt=prompt, **settings) for prompt in PROMPTS]


def follow_definition(model: Any, request: EncodedRequest, end: int) -> list[int]:
    """Generate with whole forward passes: bias, repetition penalty, penalties on generated tokens, temperature."""
    sampling = request.sampling
    generated: list[int] = []
    while len(generated) < request.limit and end not in generated:
        tokens = [*request.prompt_ids, *generated]
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0, -1].clone()
        for token, bias in sampling.logit_bias:
            logits[token] += bias
        for token in set(tokens):
            factor = sampling.repetition_penalty
            logits[token] = logits[token] * factor if logits[token] < 0 else logits[token] / factor
        for token, count in Counter(generated).items():
            logits[token] -= sampling.frequency_penalty * count + sampling.presence_penalty
        if not sampling.temperature:
            generated.append(int(logits.argmax()))
            continue
        sums = (logits / sampling.temperature).softmax(dim=-1).double().cumsum(dim=-1)
        number = float(compute_uniform_numbers([request.seed], [len(generated)])[0])
        generated.append(int(torch.searchsorted(sums, number * sums[-1], right=True)))
    return generated


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_our_engine_follows_the_definition(
    checkpoint: Path, options: GenerationOptions, settings: dict[str, Any]
) -> None:
    model, tokenizer = load_model(checkpoint, dtype="float32", device="cpu"), load_tokenizer(checkpoint)
    generator = TextGenerator(checkpoint, replace(options, dtype="float32", device="cpu"))
    encoded = generator.encode(requests_of(settings))
    (end,) = generator.setup.end_token_ids
    found = generator.complete(requests_of(settings))
    for request, completion in zip(encoded, found, strict=True):
        expected = follow_definition(model, request, end)
        assert completion.text == tokenizer.decode(expected, skip_special_tokens=True)
        assert completion.completion_tokens == len(expected)


def test_options_of_the_run_and_of_the_request_mean_the_same(checkpoint: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"presence_penalty": 1.0, "frequency_penalty": 0.5, "logit_bias": {300: 5.0}}
    generate(checkpoint, requests_of({}), tmp_path / "run.jsonl", replace(GREEDY, **settings))
    generate(checkpoint, requests_of(settings), tmp_path / "request.jsonl", GREEDY)
    generate(checkpoint, requests_of({}), tmp_path / "none.jsonl", GREEDY)
    texts = [(tmp_path / f"{name}.jsonl").read_text() for name in ("run", "request", "none")]
    assert texts[0] == texts[1] != texts[2]


def test_reported_probabilities_are_those_before_bias_and_penalties(checkpoint: Path) -> None:
    generator = TextGenerator(checkpoint, GREEDY)
    (plain,) = generator.complete([GenerationRequest(prompt="x", logprobs=3)])
    (biased,) = generator.complete([GenerationRequest(prompt="x", logprobs=3, logit_bias={700: 100.0})])
    assert plain.logprobs
    assert biased.logprobs
    assert biased.logprobs[0].token_id == 700
    assert biased.logprobs[0].alternatives == plain.logprobs[0].alternatives


def test_llama_cpp_adds_biases_like_ours_and_rejects_penalties_by_name(checkpoint: Path, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "gguf", "gguf", gguf_type="f32")
    theirs = TextGenerator(tmp_path / "gguf", GREEDY)
    ours = TextGenerator(checkpoint, replace(GREEDY, dtype="float32"))
    biased = requests_of({"logit_bias": {300: 4.0, 301: -100.0, 564: -100.0}, "max_new_tokens": 4})
    assert [one.text for one in theirs.complete(biased)] == [one.text for one in ours.complete(biased)]
    for name in ("presence_penalty", "frequency_penalty"):
        wrong = [GenerationRequest(prompt="a"), GenerationRequest(prompt="a", **{name: 0.5})]  # type: ignore[arg-type]
        for use in (theirs.complete, theirs.encode):
            with pytest.raises(UnsupportedError, match=f"request 2: {name} is 0.5, but llama.cpp would also count"):
                use(wrong)
        with pytest.raises(UnsupportedError, match=f"{name} is 0.5"):
            theirs.submit(wrong[1])


def test_a_single_stop_text_may_be_a_string(checkpoint: Path) -> None:
    assert GenerationRequest(prompt="a", stop="ab") == GenerationRequest(prompt="a", stop=["ab"])
    generator = TextGenerator(checkpoint, GREEDY)
    (whole,) = generator.complete([GenerationRequest(prompt="x")])
    (stopped,) = TextGenerator(checkpoint, replace(GREEDY, stop=whole.text[3:5])).complete(
        [GenerationRequest(prompt="x")]
    )
    assert stopped.text == whole.text[: whole.text.index(whole.text[3:5])]
