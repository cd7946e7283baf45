"""The chat prompt against the published code, except for defects of that code."""

import json
from pathlib import Path
from typing import Any

import pytest

from baichuan_core.errors import PromptError
from baichuan_core.tokenizer import BaichuanTokenizer, ChatFormat, build_chat_prompt
from baichuan_core.tokenizer.chat_format import ChatStyle

CHAT = Path(__file__).parents[2] / "golden" / "chat"
INPUTS: list[dict[str, Any]] = json.loads((CHAT / "chat_inputs.json").read_text())
CASES: list[dict[str, Any]] = json.loads((CHAT / "chat_cases.json").read_text())
DEFAULT_MAX_NEW_TOKENS = 2048  # what 0 stands for in the recorded cases
CONTROL_PIECES = ("</s>", "<s>", "<unk>", "<reserved_")


@pytest.fixture(scope="module")
def tokenizer() -> BaichuanTokenizer:
    return BaichuanTokenizer(str(CHAT / "tokenizer.model"))


def prompt(tokenizer: BaichuanTokenizer, case: dict[str, Any], form: ChatStyle) -> list[int]:
    return build_chat_prompt(
        tokenizer,
        case["messages"],
        model_max_length=case["model_max_length"],
        max_new_tokens=case["max_new_tokens"] or DEFAULT_MAX_NEW_TOKENS,
        chat_format=ChatFormat(case["user_token_id"], case["assistant_token_id"], form),
    )


def has_control_pieces(case: dict[str, Any]) -> bool:
    return any(piece in str(m.get("content")) for m in case["messages"] for piece in CONTROL_PIECES)


def is_refused(case: dict[str, Any], form: ChatStyle) -> bool:
    """Unlike in the published code, invalid roles and a context without room are errors."""
    roles = [message.get("role") for message in case["messages"]]
    known = {"user", "assistant"} if form == "baichuan1-13b" else {"user", "assistant", "system"}
    no_room = (case["max_new_tokens"] or DEFAULT_MAX_NEW_TOKENS) >= case["model_max_length"]
    return not set(roles) <= known or (form == "baichuan2" and no_room)


@pytest.mark.parity
@pytest.mark.parametrize("case", INPUTS + CASES, ids=lambda case: f"{case['case']}-{case['model_max_length']}")
@pytest.mark.parametrize("form", ["baichuan2", "baichuan1-13b"])
def test_equals_the_published_prompt(tokenizer: BaichuanTokenizer, case: dict[str, Any], form: ChatStyle) -> None:
    prefix = "" if form == "baichuan2" else "baichuan1_13b_original."
    if f"{prefix}error" in case or is_refused(case, form):
        with pytest.raises(PromptError):
            prompt(tokenizer, case, form)
    elif has_control_pieces(case):
        # Unlike in the published code, text is never encoded to control tokens, so only turns have control ids.
        ids = prompt(tokenizer, case, form)
        turns = sum(message["role"] != "system" for message in case["messages"])
        awaits = case["messages"][-1]["role"] != "assistant" or form == "baichuan1-13b"
        assert sum(token_id in {195, 196} for token_id in ids) == turns + awaits
        answers = sum(message["role"] == "assistant" for message in case["messages"])
        assert ids.count(2) == (answers if form == "baichuan1-13b" else 0)
        assert not {0, 1} & set(ids)
    elif f"{prefix}input_ids" in case:
        assert prompt(tokenizer, case, form) == case[f"{prefix}input_ids"]


@pytest.mark.parametrize(
    ("messages", "hint"),
    [
        ([], "at least one user message"),
        ([{"role": "tool", "content": "x"}], "role 'tool'"),
        ([{"role": "user", "content": 3}], "'content' to a string"),
        ([{"role": "user", "content": "x"}, {"role": "system", "content": "x"}], "move it to the beginning"),
    ],
)
def test_malformed_messages_are_named(tokenizer: BaichuanTokenizer, messages: Any, hint: str) -> None:
    with pytest.raises(PromptError, match=hint):
        build_chat_prompt(tokenizer, messages, model_max_length=64, max_new_tokens=8)


def test_no_room_for_a_prompt_says_what_to_change(tokenizer: BaichuanTokenizer) -> None:
    with pytest.raises(PromptError, match="below 64"):
        build_chat_prompt(tokenizer, [{"role": "user", "content": "x"}], model_max_length=64, max_new_tokens=64)


def test_baichuan1_needs_a_user_message(tokenizer: BaichuanTokenizer) -> None:
    with pytest.raises(PromptError, match="no user message"):
        build_chat_prompt(
            tokenizer,
            [{"role": "assistant", "content": "x"}],
            model_max_length=64,
            max_new_tokens=8,
            chat_format=ChatFormat(style="baichuan1-13b"),
        )
