"""The fine-tuning data format and its labels, against the published preprocessing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from baichuan_core.errors import DatasetError
from baichuan_core.finetuning.batches import Collator
from baichuan_core.finetuning.data import encode_conversation, encode_training_data
from baichuan_core.finetuning.example_store import EncodedExample
from baichuan_core.finetuning.formats import read_conversations
from baichuan_core.tokenizer import BaichuanTokenizer, ChatFormat, build_chat_prompt

CHAT = Path(__file__).parents[2] / "golden" / "chat"
SFT_CASES: list[dict[str, Any]] = json.loads((CHAT / "sft_cases.json").read_text())
GOOD = {"id": "0", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]}


@pytest.fixture(scope="module")
def tokenizer() -> BaichuanTokenizer:
    return BaichuanTokenizer(str(CHAT / "tokenizer.model"))


def write(directory: Path, text: str) -> Path:
    path = directory / "data.json"
    path.write_text(text)
    return path


def encode(tokenizer: BaichuanTokenizer, directory: Path, conversations: Any, max_length: int) -> EncodedExample:
    path = write(directory, json.dumps([{"conversations": conversations}]))
    return encode_conversation(tokenizer, read_conversations(path)[0], max_length=max_length)


def padded(example: EncodedExample, length: int) -> dict[str, list[int]]:
    filler = EncodedExample([0] * length, [0] * length)
    batch = {name: tensor[0].tolist() for name, tensor in Collator(pad_token_id=0)([example, filler]).items()}
    # Nothing predicts the first token, so a batch has no label for it.
    assert batch["labels"][0] == -100
    return batch | {"labels": example.labels[:1] + batch["labels"][1:]}


@pytest.mark.parity
def test_labels_equal_the_published_examples(tokenizer: BaichuanTokenizer) -> None:
    golden = load_file(CHAT / "sft_examples.safetensors")
    for number, conversation in enumerate(read_conversations(CHAT / "conversations.json")):
        batch = padded(encode_conversation(tokenizer, conversation, max_length=128), 128)
        for name in ("input_ids", "labels", "attention_mask"):
            assert batch[name] == golden[f"{name}.{number}"].to(torch.int64).tolist()


@pytest.mark.parity
@pytest.mark.parametrize("case", SFT_CASES, ids=lambda case: case["case"])
def test_labels_equal_the_published_cases(tokenizer: BaichuanTokenizer, tmp_path: Path, case: dict[str, Any]) -> None:
    if "error" in case:
        with pytest.raises(DatasetError):
            encode(tokenizer, tmp_path, case["conversations"], case["model_max_length"])
        return
    example = encode(tokenizer, tmp_path, case["conversations"], case["model_max_length"])
    if case["case"] in {"eos_tight", "unk_in_text"}:
        # Unlike in the published code, control tokens in the text are encoded as text, and no real token is masked.
        assert 0 not in example.input_ids
        assert example.input_ids.count(2) == 1
        return
    batch = padded(example, case["model_max_length"])
    assert batch["input_ids"] == case["input_ids"]
    assert batch["labels"] == case["labels"]
    assert batch["attention_mask"] == [int(mask) for mask in case["attention_mask"]]


@pytest.mark.parametrize("form", ["array", "indented", "lines"])
def test_array_and_lines_read_the_same(tmp_path: Path, form: str) -> None:
    text = {
        "array": json.dumps([GOOD, GOOD]),
        "indented": json.dumps([GOOD, GOOD], indent=2),
        "lines": f"{json.dumps(GOOD)}\n\n{json.dumps(GOOD)}\n",
    }[form]
    conversations = read_conversations(write(tmp_path, "\ufeff" + text))
    assert [conversation.turns for conversation in conversations] == [((True, "hi"), (False, "yes"))] * 2


def with_turn(**turn: Any) -> str:
    return json.dumps([GOOD, {"conversations": [turn]}]).replace("}, {", "},\n{")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains no examples"),
        ("[]", "contains no examples"),
        ('[\n{"id": 1,}\n]', "line 2 .* is not JSON"),
        (f"[\n{json.dumps(GOOD)}\n{json.dumps(GOOD)}]", "line 3 .* expected ','"),
        (f"[{json.dumps(GOOD)},", "line 1 .* is not JSON"),
        (f"[{json.dumps(GOOD)}]\nmore", "line 2 .* after the end"),
        (f"{json.dumps(GOOD)}\n{{", "line 2 .* is not JSON"),
        ("[\n\n1]", r"line 3 \(example 1\) is not an object"),
        ('[{"id": "0"}]', r"example 1\) has no turns"),
        ('[{"conversations": []}]', r"example 1\) has no turns"),
        ('[{"conversations": "x"}]', r"example 1\) has no turns"),
        (with_turn(value="x"), "turn 1 needs both"),
        (with_turn(**{"from": "human"}), "turn 1 needs both"),
        (with_turn(**{"from": "robot", "value": "x"}), "unknown role 'robot'; use 'human' or 'gpt'"),
        (with_turn(**{"from": "gpt", "value": "x", "weight": 1}), "turn 1 has the unknown key 'weight'; remove it"),
        (with_turn(**{"from": "human", "value": 3}), "write it as a string"),
        (with_turn(**{"from": ["human"], "value": "x"}), "unknown role"),
        ("[" * 100_000, "line 1 .* is not JSON"),
        (f'{json.dumps(GOOD)}\n{{"id": {"1" * 5000}}}', "line 2 .* is not JSON"),
    ],
)
def test_malformed_data_is_named_by_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_conversations(write(tmp_path, text))


def test_the_place_of_an_error_in_an_indented_array_is_its_line(tmp_path: Path) -> None:
    text = json.dumps([GOOD, {"conversations": [{"from": "robot", "value": "x"}]}], indent=1)
    line = 1 + text[: text.rindex('"conversations"')].count("\n") - 1
    with pytest.raises(DatasetError, match=rf"line {line} \(example 2\), turn 1"):
        read_conversations(write(tmp_path, text))


def test_unreadable_files_are_dataset_errors(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        read_conversations(tmp_path / "missing.json")
    (tmp_path / "latin.json").write_bytes('[{"id": "é"}]'.encode("latin-1"))
    with pytest.raises(DatasetError, match="not UTF-8"):
        read_conversations(tmp_path / "latin.json")


def test_half_a_surrogate_pair_is_named_with_its_line(tokenizer: BaichuanTokenizer, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"line 1 \(example 1\): character 1"):
        encode(tokenizer, tmp_path, [{"from": "gpt", "value": "\ud83d"}], 32)


def test_examples_without_an_answer_in_the_window_are_dropped_and_counted(
    tokenizer: BaichuanTokenizer, tmp_path: Path
) -> None:
    long_question = [{"from": "human", "value": "a" * 40}, {"from": "gpt", "value": "yes"}]
    long_answer = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "a" * 40}]
    path = write(tmp_path, json.dumps([{"conversations": c} for c in (long_question, long_answer)] + [GOOD]))
    data = encode_training_data(tokenizer, read_conversations(path), max_length=16)
    assert (len(data.examples), data.dropped, data.truncated) == (2, 1, 1)


def test_data_without_answers_is_an_error(tokenizer: BaichuanTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps([GOOD]))
    with pytest.raises(DatasetError, match="raise max_length"):
        encode_training_data(tokenizer, read_conversations(path), max_length=2)


def test_the_first_13b_is_trained_the_way_it_is_prompted(tokenizer: BaichuanTokenizer, tmp_path: Path) -> None:
    """Its prompts end each answer with eos, which the published script of the second generation would omit."""
    first_13b = ChatFormat(style="baichuan1-13b")
    texts = ["hi", "yes", "Who are you?", "A queue."]
    turns = [{"from": "gpt" if number % 2 else "human", "value": text} for number, text in enumerate(texts)]
    path = write(tmp_path, json.dumps([{"conversations": turns}]))
    (conversation,) = read_conversations(path)
    example = encode_conversation(tokenizer, conversation, max_length=128, chat_format=first_13b)
    prompt = build_chat_prompt(
        tokenizer,
        [
            {"role": "user", "content": texts[0]},
            {"role": "assistant", "content": texts[1]},
            {"role": "user", "content": texts[2]},
        ],
        model_max_length=128,
        max_new_tokens=8,
        chat_format=first_13b,
    )
    answers = [[*tokenizer.encode_text(text), 2] for text in texts[1::2]]
    assert example.input_ids == [*prompt, *answers[1]]
    assert [label for label in example.labels if label != -100] == answers[0] + answers[1]
    assert all(label in (-100, token) for label, token in zip(example.labels, example.input_ids, strict=True))


def test_a_checkpoints_chat_template_is_trained_as_it_prompts(tokenizer: BaichuanTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps([GOOD]))
    (conversation,) = read_conversations(path)
    template = "{% for message in messages %}<reserved_9>{{ message.content }}{% endfor %}"
    asking = "{% if add_generation_prompt %}<reserved_9>{% endif %}"
    own = BaichuanTokenizer(str(CHAT / "tokenizer.model"), chat_template=template + asking)
    form = ChatFormat(style="chat_template")
    example = encode_conversation(own, conversation, max_length=128, chat_format=form)
    turn = own.convert_tokens_to_ids("<reserved_9>")
    hi, yes = own.encode_text("hi"), own.encode_text("yes")
    assert example.input_ids == [turn, *hi, turn, *yes, 2]
    assert example.labels == [-100] * (len(hi) + 2) + [*yes, 2]
    refusing = BaichuanTokenizer(str(CHAT / "tokenizer.model"), chat_template="{{ raise_exception('never') }}")
    with pytest.raises(DatasetError, match=r"line 1 \(example 1\): .* never"):
        encode_conversation(refusing, conversation, max_length=128, chat_format=form)
