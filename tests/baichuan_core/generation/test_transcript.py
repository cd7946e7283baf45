"""Streamed text: the deltas join to the whole text, whatever the tokens are."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baichuan_core import BaichuanTokenizer
from baichuan_core.checkpoint import load_tokenizer
from baichuan_core.generation.engines.contract import EncodedRequest, SamplingSettings
from baichuan_core.generation.engines.outputs import TokenLogprobs
from baichuan_core.generation.transcript import Transcript
from examples.tiny_checkpoint import make_tiny_checkpoint

GREEDY = SamplingSettings(temperature=0, top_k=0, top_p=1, repetition_penalty=1)
END = 2
BYTES_OF_AN_EMOJI = [3 + byte for byte in "🙂".encode()]  # byte tokens follow the three control tokens


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BaichuanTokenizer:
    return load_tokenizer(make_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="module")
def golden_tokenizer() -> BaichuanTokenizer:
    return BaichuanTokenizer(str(Path(__file__).parents[2] / "golden" / "chat" / "tokenizer.model"))


def transcript(
    tokenizer: BaichuanTokenizer, limit: int, stop: tuple[str, ...] = (), logprobs: int | None = None
) -> Transcript:
    request = EncodedRequest(3, 1, (5,), limit, 0, GREEDY, stop, logprobs)
    return Transcript(tokenizer, request, frozenset([END]))


def streamed(one: Transcript, ids: list[int]) -> list[str]:
    """Return the deltas of adding `ids` until the completion ends."""
    pieces = []
    for token_id in ids:
        ended = one.add(token_id)
        if delta := one.take_delta():
            assert (delta.index, delta.sample) == (3, 1)
            pieces.append(delta.text)
        if ended:
            break
    return pieces


TOKENS = st.lists(
    st.one_of(st.integers(0, 700), st.integers(3, 258), st.sampled_from(BYTES_OF_AN_EMOJI)), min_size=1, max_size=30
)


@given(ids=TOKENS)
def test_joined_deltas_are_the_text(
    tokenizer: BaichuanTokenizer, golden_tokenizer: BaichuanTokenizer, ids: list[int]
) -> None:
    for each in (tokenizer, golden_tokenizer):
        one = transcript(each, len(ids))
        assert "".join(streamed(one, ids)) == one.build_completion().text


@given(text=st.text(st.sampled_from("ab 你好🙂é\n"), min_size=1, max_size=20))
def test_a_delta_never_ends_inside_a_character(tokenizer: BaichuanTokenizer, text: str) -> None:
    ids = tokenizer.encode_text(text)
    one = transcript(tokenizer, len(ids))
    pieces = streamed(one, ids)
    assert "".join(pieces) == one.build_completion().text == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@given(text=st.text(st.sampled_from("abcd "), min_size=1, max_size=20), stop=st.sampled_from(["ab", "bca", "cc", " "]))
def test_no_part_of_a_stop_text_is_ever_sent(tokenizer: BaichuanTokenizer, text: str, stop: str) -> None:
    ids = tokenizer.encode_text(text)
    one = transcript(tokenizer, len(ids), stop=("never", stop))
    expected, found, _ = text.partition(stop)
    assert "".join(streamed(one, ids)) == one.build_completion().text == expected
    assert one.finish_reason == ("stop" if found else "length")


def test_text_that_may_start_a_stop_text_is_held_back(tokenizer: BaichuanTokenizer) -> None:
    one = transcript(tokenizer, 10, stop=("bx",))
    assert streamed(one, tokenizer.encode_text("a")) == ["a"]
    assert streamed(one, tokenizer.encode_text("b")) == []
    assert streamed(one, tokenizer.encode_text("c")) == ["bc"]


def test_an_end_token_ends_it_and_counts_but_has_no_text(tokenizer: BaichuanTokenizer) -> None:
    one = transcript(tokenizer, 10)
    streamed(one, [*tokenizer.encode_text("ab"), END])
    completion = one.build_completion()
    assert (completion.text, completion.finish_reason) == ("ab", "stop")
    assert completion.completion_tokens == len(tokenizer.encode_text("ab")) + 1


@given(ids=TOKENS, stop=st.lists(st.sampled_from(["a", "ab", "e", " ", "\N{REPLACEMENT CHARACTER}"]), max_size=2))
def test_probabilities_come_with_their_text(tokenizer: BaichuanTokenizer, ids: list[int], stop: list[str]) -> None:
    one = transcript(tokenizer, len(ids), tuple(stop), logprobs=0)
    found: list[TokenLogprobs] = []
    text = ""
    for token_id in ids:
        ended = one.add(token_id, TokenLogprobs(token_id, -1.0, ()))
        if delta := one.take_delta():
            text += delta.text
            found += delta.logprobs
        if not ended and found:
            assert text.startswith(str(tokenizer.decode([entry.token_id for entry in found], skip_special_tokens=True)))
        if ended:
            break
    assert tuple(found) == one.build_completion().logprobs


def test_logprobs_are_those_of_the_tokens_in_the_text(tokenizer: BaichuanTokenizer) -> None:
    ids = [tokenizer.encode_text(letter)[0] for letter in "abcd"]
    one = transcript(tokenizer, 10, stop=("cd",), logprobs=0)
    for token_id in ids:
        one.add(token_id, TokenLogprobs(token_id, -1.0, ()))
    assert one.build_completion().text == "ab"
    assert [entry.token_id for entry in one.build_completion().logprobs or ()] == ids[:2]
