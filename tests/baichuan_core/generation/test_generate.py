"""Generation runs on an untrained tiny checkpoint, from the outside."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from baichuan_core import (
    CheckpointError,
    GenerationOptions,
    GenerationRequest,
    Progress,
    PromptError,
    TextGenerator,
    TokenizerError,
    generate,
)
from baichuan_core.generation import TextDelta, read_requests
from baichuan_core.tokenizer import Message
from examples.tiny_checkpoint import make_tiny_checkpoint

GREEDY = GenerationOptions(temperature=0, repetition_penalty=1.0, max_new_tokens=12)
SAMPLED = GenerationOptions(temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=12, seed=3)
PROMPTS = ["Who are you?", "任务", "Redis only carries messages. " * 4, "a", "四比特量化用什么格式？"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def run(
    checkpoint: Path, directory: Path, requests: list[GenerationRequest], options: GenerationOptions
) -> list[dict[str, Any]]:
    output = directory / "completions.jsonl"
    generate(checkpoint, requests, output, options)
    return [json.loads(line) for line in output.read_text().splitlines()]


def prompts(*texts: str) -> list[GenerationRequest]:
    return [GenerationRequest(prompt=text) for text in texts]


def chat(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def test_lines_are_in_the_order_of_the_requests_with_all_fields(checkpoint: Path, tmp_path: Path) -> None:
    requests = [GenerationRequest(prompt="a", id="first"), GenerationRequest(messages=chat("longer than the other"))]
    first, second = run(checkpoint, tmp_path, requests, GREEDY)
    assert list(first) == [
        "index", "sample", "id", "prompt", "completion", "finish_reason", "prompt_tokens", "completion_tokens",
    ]  # fmt: skip
    assert (first["index"], first["id"], first["prompt"]) == (0, "first", "a")
    assert (second["index"], second["messages"]) == (1, requests[1].messages)
    assert "id" not in second
    assert "prompt" not in second
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert second["prompt_tokens"] == len(tokenizer.encode_text("longer than the other")) + 2


def test_greedy_equals_a_plain_loop_of_transformers_whatever_the_batch(checkpoint: Path, tmp_path: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    expected = []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer.encode(prompt)])
        plain = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None, "repetition_penalty": 1.0}
        answer = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, **plain)
        expected.append(tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True))
    for batch_size in (1, 2, 32):
        options = GenerationOptions(temperature=0, repetition_penalty=1.0, max_new_tokens=12, batch_size=batch_size)
        lines = run(checkpoint, tmp_path, prompts(*PROMPTS), options)
        assert [line["completion"] for line in lines] == expected


def test_samples_do_not_depend_on_batch_or_order(checkpoint: Path, tmp_path: Path) -> None:
    together = [line["completion"] for line in run(checkpoint, tmp_path, prompts(*PROMPTS), SAMPLED)]
    alone = [run(checkpoint, tmp_path, prompts(prompt), SAMPLED)[0]["completion"] for prompt in PROMPTS]
    backwards = [line["completion"] for line in run(checkpoint, tmp_path, prompts(*PROMPTS[::-1]), SAMPLED)]
    assert together == alone == backwards[::-1]


def test_equal_prompts_get_different_samples_that_depend_on_the_seed(checkpoint: Path, tmp_path: Path) -> None:
    three = [line["completion"] for line in run(checkpoint, tmp_path, prompts("a", "a", "a"), SAMPLED)]
    again = [line["completion"] for line in run(checkpoint, tmp_path, prompts("a", "a", "a"), SAMPLED)]
    other_seed = GenerationOptions(temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=12, seed=4)
    other = [line["completion"] for line in run(checkpoint, tmp_path, prompts("a", "a", "a"), other_seed)]
    assert len(set(three)) == 3
    assert again == three
    assert not set(three) & set(other)


def test_a_temperature_near_zero_is_greedy(checkpoint: Path, tmp_path: Path) -> None:
    greedy = run(checkpoint, tmp_path, prompts("a", "任务"), GREEDY)
    assert run(checkpoint, tmp_path, prompts("a", "任务"), replace(GREEDY, temperature=1e-42)) == greedy


def test_only_role_and_content_of_a_chat_are_returned(checkpoint: Path, tmp_path: Path) -> None:
    messages: list[Any] = [{"role": "user", "content": "a", "name": "\ud800", "weight": float("nan")}]
    (line,) = run(checkpoint, tmp_path, [GenerationRequest(messages=messages)], GREEDY)
    assert line["messages"] == chat("a")


def test_n_samples_are_one_per_line_and_depend_on_their_index(checkpoint: Path, tmp_path: Path) -> None:
    lines = run(checkpoint, tmp_path, prompts("a", "任务"), replace(SAMPLED, n=3))
    assert [(line["index"], line["sample"]) for line in lines] == [(i, s) for i in range(2) for s in range(3)]
    assert len({line["completion"] for line in lines[:3]}) == 3
    single = run(checkpoint, tmp_path, prompts("a", "任务"), SAMPLED)
    assert [line["completion"] for line in single] == [lines[0]["completion"], lines[3]["completion"]]


def test_a_request_may_differ_from_the_options(checkpoint: Path, tmp_path: Path) -> None:
    plain = run(checkpoint, tmp_path, prompts(PROMPTS[0]), GREEDY)[0]["completion"]
    seeded = GenerationRequest(prompt="a", temperature=1.0, top_k=0, top_p=1.0, seed=9)
    requests = [
        GenerationRequest(prompt=PROMPTS[0], max_new_tokens=3),
        GenerationRequest(prompt=PROMPTS[0], stop=(plain[2:4],)),
        GenerationRequest(prompt=PROMPTS[0]),
        seeded,
        replace(seeded, seed=10),
        seeded,
    ]
    short, stopped, full, first, other, again = run(checkpoint, tmp_path, requests, GREEDY)
    assert (short["completion_tokens"], short["finish_reason"]) == (3, "length")
    assert (stopped["completion"], stopped["finish_reason"]) == (plain[: plain.index(plain[2:4])], "stop")
    assert full["completion"] == plain
    assert first["completion"] == again["completion"] != other["completion"]


def test_logprobs_are_in_the_format_of_openai(checkpoint: Path, tmp_path: Path) -> None:
    (line,) = run(checkpoint, tmp_path, prompts("a"), replace(GREEDY, logprobs=2))
    entries = line["logprobs"]["content"]
    assert len(entries) == line["completion_tokens"]
    for entry in entries:
        assert list(entry) == ["token", "logprob", "bytes", "top_logprobs"]
        assert entry["logprob"] == max(other["logprob"] for other in entry["top_logprobs"]) <= 0  # greedy
        assert len(entry["top_logprobs"]) == 2
    whole = b"".join(bytes(entry["bytes"]) for entry in entries)
    assert whole.decode("utf-8", "replace") == line["completion"]


def test_a_generator_stays_loaded_and_streams(checkpoint: Path) -> None:
    generator = TextGenerator(checkpoint, SAMPLED)
    requests = prompts(*PROMPTS)
    completions = generator.complete(requests)
    assert [one.index for one in completions] == list(range(5))
    texts: dict[int, str] = dict.fromkeys(range(5), "")
    finished = {}
    for event in generator.stream(requests):
        if isinstance(event, TextDelta):
            texts[event.index] += event.text
        else:
            finished[event.index] = event
    assert [texts[one.index] for one in completions] == [one.text for one in completions]
    assert [finished[one.index] for one in completions] == completions
    with pytest.raises(PromptError, match="request 1"):
        generator.stream(prompts(""))


def test_the_checkpoint_supplies_options_that_are_not_set(checkpoint: Path, tmp_path: Path) -> None:
    line = run(checkpoint, tmp_path, prompts("a"), GenerationOptions())[0]
    assert line["completion_tokens"] == 128  # max_new_tokens of its generation_config.json
    sampled = run(checkpoint, tmp_path, prompts("a"), GenerationOptions(seed=1))[0]
    assert sampled["completion"] != line["completion"]  # do_sample is set there as well


def test_a_stop_text_ends_the_row_and_is_omitted(checkpoint: Path, tmp_path: Path) -> None:
    full = run(checkpoint, tmp_path, prompts(*PROMPTS), GREEDY)
    text = full[0]["completion"]
    stop = text[4:7]
    options = GenerationOptions(temperature=0, repetition_penalty=1.0, max_new_tokens=12, stop=("never", stop))
    stopped = run(checkpoint, tmp_path, prompts(*PROMPTS), options)
    assert stopped[0]["completion"] == text[: text.index(stop)]
    assert stopped[0]["finish_reason"] == "stop"
    assert stopped[0]["completion_tokens"] < full[0]["completion_tokens"]
    assert stopped[3]["completion"] == full[3]["completion"]
    assert stopped[3]["finish_reason"] == "length"


def test_the_window_limits_a_completion(checkpoint: Path, tmp_path: Path) -> None:
    line, short = run(checkpoint, tmp_path, prompts("1" * 508, "a"), GREEDY)
    assert (line["prompt_tokens"], line["completion_tokens"], line["finish_reason"]) == (508, 4, "length")
    assert short["completion_tokens"] == 12


def test_a_chat_that_fits_in_the_window_can_be_kept_as_a_whole(checkpoint: Path, tmp_path: Path) -> None:
    fits: list[Message] = [*chat("1" * 300), {"role": "assistant", "content": "ok"}, *chat("2" * 100)]
    long = chat("3" * 600)
    options = replace(GREEDY, max_new_tokens=400)
    requests = [
        GenerationRequest(messages=messages, keep_messages=keep) for messages in (fits, long) for keep in (True, False)
    ]
    kept, dropped, *cut = run(checkpoint, tmp_path, requests, options)
    assert (kept["prompt_tokens"], kept["completion_tokens"]) == (len("1" * 300 + "ok" + "2" * 100) + 4, 106)
    assert dropped["prompt_tokens"] == 102
    assert [line["prompt_tokens"] for line in cut] == [112, 112]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"prompt": "1" * 512}, "request 2: the prompt has 512 tokens, but the model's context length is 512"),
        ({"prompt": ""}, "request 2: the prompt is empty"),
        ({"prompt": "\ud83d"}, "request 2: character 1"),
        ({"messages": []}, "request 2: messages is empty"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "request 2: message 1 has role 'tool'"),
    ],
)
def test_a_prompt_that_cannot_be_answered_is_named_and_nothing_is_written(
    checkpoint: Path, tmp_path: Path, second: dict[str, Any], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        generate(checkpoint, [*prompts("a"), GenerationRequest(**second)], tmp_path / "out.jsonl", GREEDY)
    assert list(tmp_path.iterdir()) == []


def test_a_request_from_a_file_is_named_by_its_line(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n\n{"prompt": ""}\n')
    with pytest.raises(PromptError, match=r"line 3 of prompts\.jsonl: the prompt is empty"):
        generate(checkpoint, read_requests(tmp_path / "prompts.jsonl"), tmp_path / "out.jsonl", GREEDY)


def test_a_chat_without_room_for_an_answer_is_rejected(checkpoint: Path, tmp_path: Path) -> None:
    options = GenerationOptions(max_new_tokens=512)
    with pytest.raises(PromptError, match="below 512"):
        generate(checkpoint, [GenerationRequest(messages=chat("a"))], tmp_path / "out.jsonl", options)


def test_an_empty_list_of_requests_is_an_error(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="at least one"):
        generate(checkpoint, [], tmp_path / "out.jsonl", GREEDY)


def test_broken_directories_are_rejected(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        generate(tmp_path / "missing", prompts("a"), tmp_path / "out.jsonl", GREEDY)
    for path in checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "generation_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"generation_config\.json must contain a JSON object"):
        generate(tmp_path, prompts("a"), tmp_path / "out.jsonl", GREEDY)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(TokenizerError):
        generate(tmp_path, prompts("a"), tmp_path / "out.jsonl", GREEDY)


def test_progress_never_goes_back_and_counts_requests(checkpoint: Path, tmp_path: Path) -> None:
    reports: list[Progress] = []
    options = GenerationOptions(temperature=0, max_new_tokens=20, batch_size=2)
    report = generate(checkpoint, prompts(*PROMPTS), tmp_path / "out.jsonl", options, on_progress=reports.append)
    fractions = [one.fraction for one in reports]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    generating = [one.metrics for one in reports if one.stage == "generating"]
    assert generating[-1]["requests_done"] == 5
    assert report.completion_tokens == 100
    assert report.tokens_per_second > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": 2**31},
        {"top_p": 1.5},
        {"batch_size": 0},
        {"repetition_penalty": 0},
        {"stop": ("",)},
        {"stop": ("\ud800",)},
        {"n": 0},
        {"logprobs": 21},
        {"engine": "onnx"},
    ],
)
def test_options_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GenerationOptions(**wrong)


def test_weights_that_compute_nan_are_reported(checkpoint: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    for options in (GREEDY, SAMPLED):
        with pytest.raises(CheckpointError, match=r"produces NaN: .* use dtype"):
            generate(broken, prompts("a"), tmp_path / "out.jsonl", options)
    assert not (tmp_path / "out.jsonl").exists()


def test_an_output_that_cannot_be_written_is_reported_before_loading(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for output, message in ((tmp_path, "is a directory"), (tmp_path / "file" / "out.jsonl", "cannot be created")):
        with pytest.raises(CheckpointError, match=message):
            generate(checkpoint, prompts("a"), output, GREEDY)


@pytest.mark.parametrize(
    "settings",
    [{"temperature": "hot"}, {"top_k": "5"}, {"max_new_tokens": -1}, {"eos_token_id": "2"}, {"user_token_id": 99999}],
)
def test_invalid_generation_configs_are_named(checkpoint: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    copied = shutil.copytree(checkpoint, tmp_path / "copied")
    (copied / "generation_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        generate(copied, prompts("a"), tmp_path / "out.jsonl", GREEDY)


def test_a_request_may_set_its_own_number_of_answers(checkpoint: Path, tmp_path: Path) -> None:
    requests = [GenerationRequest(prompt="a", n=3), GenerationRequest(prompt="b")]
    lines = run(checkpoint, tmp_path, requests, SAMPLED)
    assert [(line["index"], line["sample"]) for line in lines] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert len({line["completion"] for line in lines[:3]}) > 1


def test_settings_of_the_checkpoint_that_are_not_used_are_logged(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copied = shutil.copytree(checkpoint, tmp_path / "copied")
    TextGenerator(copied, GREEDY)
    assert not caplog.records  # the published settings are all used
    neutral = {"num_beams": 1, "no_repeat_ngram_size": 0, "length_penalty": 1.0, "bad_words_ids": None}
    settings = json.loads((copied / "generation_config.json").read_text())
    (copied / "generation_config.json").write_text(json.dumps(settings | neutral))
    TextGenerator(copied, GREEDY)
    assert not caplog.records
    unused = {"num_beams": 4, "no_repeat_ngram_size": 3, "stop_strings": ["x"], "presence_penalty": 0.5}
    (copied / "generation_config.json").write_text(json.dumps(settings | unused))
    TextGenerator(copied, GREEDY)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith(
        "are ignored: no_repeat_ngram_size=3, num_beams=4, presence_penalty=0.5, stop_strings=['x']"
    )


@pytest.mark.parametrize("own_template", [True, False])
def test_the_report_states_how_chats_were_written(checkpoint: Path, tmp_path: Path, own_template: bool) -> None:
    copied = shutil.copytree(checkpoint, tmp_path / "copied")
    if own_template:
        (copied / "chat_template.jinja").write_text("Q: {{ messages[-1]['content'] }} A:")
    requests = [GenerationRequest(messages=chat("Who are you?"))]
    report = generate(copied, requests, tmp_path / "chat.jsonl", GREEDY)
    assert report.chat_format == ("chat_template" if own_template else "baichuan2")
    assert generate(copied, prompts("a"), tmp_path / "plain.jsonl", GREEDY).chat_format is None
    if own_template:
        (line,) = (tmp_path / "chat.jsonl").read_text().splitlines()
        generate(copied, prompts("Q: Who are you? A:"), tmp_path / "same.jsonl", GREEDY)
        (same,) = (tmp_path / "same.jsonl").read_text().splitlines()
        assert json.loads(line)["completion"] == json.loads(same)["completion"]
