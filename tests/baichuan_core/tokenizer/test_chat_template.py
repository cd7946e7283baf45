"""Chat templates: the published formats as templates, and prompts by a checkpoint's own template."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from baichuan_core import BaichuanConfig, PromptError
from baichuan_core.checkpoint import load_tokenizer
from baichuan_core.tokenizer import (
    BaichuanTokenizer,
    ChatFormat,
    build_chat_prompt,
    choose_chat_format,
    encode_training_turns,
    read_generation_settings,
)
from baichuan_core.tokenizer.chat_format import ChatStyle
from baichuan_core.tokenizer.chat_template import CONTROL_ESCAPE, build_published_template
from examples.tiny_checkpoint import Family, make_tiny_checkpoint

CHAT = Path(__file__).parents[2] / "golden" / "chat"
CASES: list[dict[str, Any]] = [
    *json.loads((CHAT / "chat_inputs.json").read_text()),
    *json.loads((CHAT / "chat_cases.json").read_text()),
]
OWN_TEMPLATE = (
    "{% for message in messages %}<reserved_9>{{ message['role'] }}: {{ message['content'] | trim }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<reserved_9>assistant: {% endif %}"
)
CONTROL_PIECES = ("</s>", "<s>", "<unk>", "<reserved_")
QUESTION = {"role": "user", "content": "Who are you?"}
ANSWER = {"role": "assistant", "content": "A queue."}


@pytest.fixture(scope="module")
def tokenizer() -> BaichuanTokenizer:
    return BaichuanTokenizer(str(CHAT / "tokenizer.model"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A checkpoint of the Baichuan 2 family that was fine-tuned with another chat template."""
    directory = make_tiny_checkpoint(tmp_path / "own")
    (directory / "chat_template.jinja").write_text(OWN_TEMPLATE)
    return directory


@pytest.mark.parity
@pytest.mark.parametrize("form", ["baichuan2", "baichuan1-13b"])
def test_templates_of_published_formats_give_the_published_ids(tokenizer: BaichuanTokenizer, form: ChatStyle) -> None:
    prefix = "" if form == "baichuan2" else "baichuan1_13b_original."
    compared = 0
    for case in CASES:
        chat_format = ChatFormat(case["user_token_id"], case["assistant_token_id"], form)
        template = build_published_template(tokenizer, chat_format)
        try:
            expected = build_chat_prompt(
                tokenizer, case["messages"], model_max_length=10**6, max_new_tokens=1, chat_format=chat_format
            )
        except PromptError:
            with pytest.raises(Exception, match=r"possible|no user message|empty conversation|concatenate"):
                tokenizer.apply_chat_template(case["messages"], chat_template=template, add_generation_prompt=True)
            continue
        ids = tokenizer.apply_chat_template(
            case["messages"], chat_template=template, add_generation_prompt=True, return_dict=False
        )
        assert ids == expected
        has_control_pieces = any(piece in str(case["messages"]) for piece in CONTROL_PIECES)
        fits = len(ids) + (case["max_new_tokens"] or 2048) <= case["model_max_length"]
        if fits and not has_control_pieces and f"{prefix}input_ids" in case:
            assert ids == case[f"{prefix}input_ids"]
            compared += 1
    assert compared > 15


@pytest.mark.parametrize("family", ["baichuan2-7b", "baichuan2-13b", "baichuan1-13b"])
@pytest.mark.parametrize("single_word", [True, False])
def test_published_chat_models_get_their_template(tmp_path: Path, family: Family, single_word: bool) -> None:
    """As published, special tokens have `single_word`, which hides the eos that ends an answer from transformers."""
    directory = make_tiny_checkpoint(tmp_path / family, family=family)
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    eos = {"__type": "AddedToken", "content": "</s>", "single_word": single_word, "normalized": True}
    (directory / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": eos}))
    config = BaichuanConfig.from_pretrained(directory)
    if family == "baichuan1-13b":  # the published vocabulary size tells this family apart
        config = BaichuanConfig(**{**config.to_dict(), "vocab_size": 64000})
        config.save_pretrained(directory)
    messages = [QUESTION, ANSWER, {"role": "user", "content": "And </s> then? <reserved_107>"}]
    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    chat_format = choose_chat_format(tokenizer, config, read_generation_settings(directory))
    assert chat_format.style == ("baichuan1-13b" if family == "baichuan1-13b" else "baichuan2")
    expected = build_chat_prompt(
        tokenizer,
        messages,  # type: ignore[arg-type]
        model_max_length=512,
        max_new_tokens=8,
        chat_format=chat_format,
    )
    encoded = tokenizer.apply_chat_template([messages, messages[:1]], add_generation_prompt=True, padding=True)
    assert encoded["input_ids"][0] == expected
    assert encoded["attention_mask"][1].count(1) == encoded["input_ids"][1].index(196) + 1


def test_a_base_model_has_no_template(tmp_path: Path) -> None:
    directory = make_tiny_checkpoint(tmp_path / "base")
    (directory / "generation_config.json").unlink()
    assert AutoTokenizer.from_pretrained(directory).chat_template is None


def test_a_saved_published_tokenizer_keeps_its_format(tmp_path: Path) -> None:
    directory = make_tiny_checkpoint(tmp_path / "chat")
    load_tokenizer(directory).save_pretrained(directory)
    assert (directory / "chat_template.jinja").is_file()
    tokenizer, config = load_tokenizer(directory), BaichuanConfig.from_pretrained(directory)
    assert choose_chat_format(tokenizer, config, read_generation_settings(directory)).style == "baichuan2"


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_an_own_template_writes_the_prompt(own: Path, place: str) -> None:
    if place == "tokenizer_config.json":
        (own / "chat_template.jinja").unlink()
        settings = json.loads((own / place).read_text())
        (own / place).write_text(json.dumps({**settings, "chat_template": OWN_TEMPLATE}))
    tokenizer = load_tokenizer(own)
    config = BaichuanConfig.from_pretrained(own)
    assert choose_chat_format(tokenizer, config, {}).style == "chat_template"
    text = tokenizer.encode_text
    (turn,) = tokenizer.encode("<reserved_9>")
    expected = [turn, *text("user: Who are you?\n"), turn, *text("assistant: A queue."), 2, *text("\n")]
    chat = [QUESTION, ANSWER, {"role": "user", "content": " a </s><reserved_9> b"}]
    expected += [turn, *text("user: a </s><reserved_9> b\n"), turn, *text("assistant: ")]
    ids = tokenizer.encode_chat(chat, config=config, settings={}, max_new_tokens=8)  # type: ignore[arg-type]
    assert ids.count(turn) == 4
    assert ids.count(2) == 1
    assert tokenizer.decode(ids) == tokenizer.decode(expected)
    assert ids[: len(expected) - 20] == expected[: len(expected) - 20]


def test_the_last_answer_is_continued_and_old_turns_are_dropped(own: Path) -> None:
    tokenizer, config = load_tokenizer(own), BaichuanConfig.from_pretrained(own)

    def prompt(messages: list[dict[str, str]], room: int = 500) -> str:
        ids = tokenizer.encode_chat(messages, config=config, settings={}, max_new_tokens=512 - room)  # type: ignore[arg-type]
        return str(tokenizer.decode(ids)).lstrip()  # as published, decoding puts a space before a control piece's text

    assert prompt([QUESTION, ANSWER]).endswith("assistant: A queue.")
    system = {"role": "system", "content": "Be brief."}
    long = [system, *[QUESTION, ANSWER] * 20, {"role": "user", "content": "The last one"}]
    kept = prompt(long, room=200)
    assert kept.startswith("<reserved_9>system: Be brief.")
    assert kept.count("Who are you?") in range(1, 20)
    assert kept.endswith("The last one\n<reserved_9>assistant: ")
    with pytest.raises(PromptError, match="but only 5 fit alongside the answer"):
        prompt([QUESTION], room=5)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no, thanks') }}", "no, thanks"),
        ("{{ 1 + messages }}", "cannot render"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ x.y }}", "undefined"),
    ],
)
def test_a_template_that_refuses_is_a_prompt_error(own: Path, template: str, reason: str) -> None:
    (own / "chat_template.jinja").write_text(template)
    tokenizer, config = load_tokenizer(own), BaichuanConfig.from_pretrained(own)
    with pytest.raises(PromptError, match=reason):
        tokenizer.encode_chat([{"role": "user", "content": "a"}], config=config, settings={}, max_new_tokens=8)


@given(text=st.lists(st.sampled_from(["<s>", "</s>", "<reserved_9>", "<", CONTROL_ESCAPE, "a", " "])).map("".join))
def test_text_of_messages_is_never_a_control_token(tokenizer: BaichuanTokenizer, text: str) -> None:
    template = "<reserved_9>{{ messages[0]['content'] }}</s>"
    ids = tokenizer.apply_chat_template([{"role": "user", "content": text}], chat_template=template, return_dict=False)
    assert ids[0] == tokenizer.convert_tokens_to_ids("<reserved_9>")
    assert ids[-1] == 2
    assert ids[1:-1] == tokenizer.encode_text(text)


def test_training_by_a_template_learns_the_answers_as_prompted(own: Path) -> None:
    tokenizer = load_tokenizer(own)
    chat_format = ChatFormat(style="chat_template")
    chat = [QUESTION, ANSWER, QUESTION, ANSWER]
    parts = encode_training_turns(tokenizer, chat, chat_format)  # type: ignore[arg-type]
    assert [learned for learned, _ in parts] == [False, True, False, True]
    whole = [token_id for _, ids in parts for token_id in ids]
    asked = tokenizer.apply_chat_template(chat[:3], add_generation_prompt=True, return_dict=False)
    assert whole[: len(asked)] == asked
    assert parts[1][1] == [*tokenizer.encode_text("A queue."), 2, *tokenizer.encode_text("\n")]


def test_a_template_that_rewrites_earlier_turns_cannot_be_trained(own: Path) -> None:
    template = "{{ messages | length }}{% for message in messages %}{{ message.content }}{% endfor %}"
    (own / "chat_template.jinja").write_text(template)
    tokenizer = load_tokenizer(own)
    with pytest.raises(PromptError, match="split the example"):
        encode_training_turns(tokenizer, [QUESTION, ANSWER], ChatFormat(style="chat_template"))  # type: ignore[list-item]


def test_copies_of_a_checkpoint_keep_its_templates(own: Path, tmp_path: Path) -> None:
    """transformers saves further templates of a tokenizer in a folder."""
    from baichuan_core.checkpoint import copy_companion_files  # noqa: PLC0415

    tokenizer = load_tokenizer(own)
    tokenizer.chat_template = {"default": OWN_TEMPLATE, "tool_use": "{{ tools }}"}
    saved = tmp_path / "saved"
    tokenizer.save_pretrained(saved)
    shutil.copy(own / "config.json", saved)
    copied = tmp_path / "copied"
    copied.mkdir()
    copy_companion_files(saved, copied)
    shutil.copy(own / "config.json", copied)
    assert load_tokenizer(copied).chat_template == tokenizer.chat_template


def test_the_first_13b_learns_no_system_message(tokenizer: BaichuanTokenizer) -> None:
    chat = [{"role": "system", "content": "Be brief."}, QUESTION, ANSWER]
    with pytest.raises(PromptError, match="message 1 has role 'system'"):
        encode_training_turns(tokenizer, chat, ChatFormat(style="baichuan1-13b"))  # type: ignore[arg-type]
