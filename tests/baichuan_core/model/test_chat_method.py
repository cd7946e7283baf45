"""`model.chat`, as in every README of the family."""

import json
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from baichuan_core import BaichuanForCausalLM, BaichuanTokenizer, PromptError
from baichuan_core.tokenizer import build_chat_prompt
from examples.tiny_checkpoint import make_tiny_checkpoint

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who are you?"},
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")
    file = directory / "generation_config.json"
    settings = json.loads(file.read_text()) | {"do_sample": False, "max_new_tokens": 12, "repetition_penalty": 1.0}
    file.write_text(json.dumps({key: value for key, value in settings.items() if key not in ("top_k", "top_p")}))
    return directory


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> BaichuanForCausalLM:
    loaded: Any = AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=True)
    assert isinstance(loaded, BaichuanForCausalLM)
    return loaded


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> BaichuanTokenizer:
    loaded: Any = AutoTokenizer.from_pretrained(checkpoint, use_fast=False, trust_remote_code=True)
    assert isinstance(loaded, BaichuanTokenizer)
    return loaded


def greedy_ids(model: BaichuanForCausalLM, tokenizer: BaichuanTokenizer) -> list[int]:
    """The answer to the published prompt."""
    prompt = build_chat_prompt(tokenizer, MESSAGES, model_max_length=512, max_new_tokens=12)  # type: ignore[arg-type]
    output = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)
    ids: list[int] = output[0, len(prompt) :].tolist()
    return ids


def test_it_answers_the_published_prompt(model: BaichuanForCausalLM, tokenizer: BaichuanTokenizer) -> None:
    expected = tokenizer.decode(greedy_ids(model, tokenizer), skip_special_tokens=True)
    assert model.chat(tokenizer, MESSAGES) == expected
    assert expected


def test_a_stream_gives_the_text_so_far(model: BaichuanForCausalLM, tokenizer: BaichuanTokenizer) -> None:
    whole = model.chat(tokenizer, MESSAGES)
    texts = list(model.chat(tokenizer, MESSAGES, stream=True))
    assert texts[-1] == whole
    assert len(texts) > 3
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))


def test_a_closed_stream_ends_the_generation(model: BaichuanForCausalLM, tokenizer: BaichuanTokenizer) -> None:
    settings = GenerationConfig(max_new_tokens=400, min_new_tokens=400, do_sample=False, eos_token_id=2, pad_token_id=0)
    stream: Any = model.chat(tokenizer, MESSAGES, stream=True, generation_config=settings)
    first = next(stream)
    stream.close()
    assert first
    assert not [thread for thread in threading.enumerate() if thread.name == "baichuan-chat"]


def test_errors_of_a_stream_reach_the_reader(
    model: BaichuanForCausalLM, tokenizer: BaichuanTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(model, "forward", fail)
    with pytest.raises(MemoryError, match="no room"):
        list(model.chat(tokenizer, MESSAGES, stream=True))


def test_an_ordinary_end_token_is_not_in_the_answer(model: BaichuanForCausalLM, tokenizer: BaichuanTokenizer) -> None:
    ids = greedy_ids(model, tokenizer)
    end = next(place for place in range(2, len(ids)) if ids[place] not in ids[:place])
    settings = GenerationConfig(max_new_tokens=12, do_sample=False, eos_token_id=[2, ids[end]], pad_token_id=0)
    expected = tokenizer.decode(ids[:end], skip_special_tokens=True)
    assert model.chat(tokenizer, MESSAGES, generation_config=settings) == expected
    assert list(model.chat(tokenizer, MESSAGES, stream=True, generation_config=settings))[-1] == expected


def test_turn_ids_of_the_checkpoint_and_its_own_template_are_used(
    model: BaichuanForCausalLM, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[list[int]] = []
    tokenizer = BaichuanTokenizer.from_pretrained(checkpoint)

    def remember(**arguments: Any) -> torch.Tensor:
        prompts.append(arguments["inputs"][0].tolist())
        return torch.tensor([[*prompts[-1], 2]])

    monkeypatch.setattr(model, "generate", remember)
    settings = GenerationConfig(max_new_tokens=5, user_token_id=190, assistant_token_id=191)
    assert model.chat(tokenizer, MESSAGES, generation_config=settings) == ""
    assert (prompts[0].count(190), prompts[0][-1]) == (1, 191)
    tokenizer.chat_template = "{{ messages[-1]['content'] }}?"
    model.chat(tokenizer, MESSAGES)
    assert prompts[1] == tokenizer.encode_text("Who are you??")


def test_without_settings_half_of_a_short_window_is_left_for_the_answer(
    model: BaichuanForCausalLM, tokenizer: BaichuanTokenizer
) -> None:
    settings = GenerationConfig(do_sample=False, eos_token_id=2, pad_token_id=0)
    long = [{"role": "user", "content": "word " * 1000}]
    assert isinstance(model.chat(tokenizer, long, generation_config=settings), str)
    assert settings.max_new_tokens is None


def test_an_adapted_model_chats(checkpoint: Path, tokenizer: BaichuanTokenizer) -> None:
    base: Any = AutoModelForCausalLM.from_pretrained(checkpoint)
    before = base.chat(tokenizer, MESSAGES)
    adapted: Any = get_peft_model(base, LoraConfig(target_modules=["W_pack"], init_lora_weights=False))
    assert adapted.chat(tokenizer, MESSAGES) != before


def test_wrong_messages_and_tokenizers_are_named(model: BaichuanForCausalLM, tokenizer: BaichuanTokenizer) -> None:
    with pytest.raises(PromptError, match="role 'tool'"):
        model.chat(tokenizer, [{"role": "tool", "content": "a"}])
    other: Any = object()
    with pytest.raises(TypeError, match="requires the BaichuanTokenizer of the checkpoint, not a object"):
        model.chat(other, MESSAGES)


@pytest.mark.parametrize("messages", ["hi", {"role": "user", "content": "hi"}, ["hi"], [], [None]])
def test_something_other_than_messages_is_refused(
    model: BaichuanForCausalLM, tokenizer: BaichuanTokenizer, messages: Any
) -> None:
    with pytest.raises(PromptError, match=r"messages is not a list; use|message 1 is a|messages is empty"):
        model.chat(tokenizer, messages)
