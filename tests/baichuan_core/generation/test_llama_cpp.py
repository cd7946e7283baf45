"""llama.cpp gives the same answers as our own engine, through the same interface."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baichuan_core import CheckpointError, GenerationOptions, GenerationRequest, UnsupportedError, convert, load_model
from baichuan_core.checkpoint import copy_companion_files
from baichuan_core.generation import Completion, TextDelta, TextGenerator, generate
from examples.tiny_checkpoint import make_tiny_checkpoint

# Maximum difference between float32 results that are summed in different order, with random weights.
NEAR_TIE = 1e-2
GREEDY_TOKENS = 32
GREEDY = GenerationOptions(max_new_tokens=GREEDY_TOKENS, temperature=0, repetition_penalty=1.0, logprobs=2)
TOKEN, OTHER_TOKEN = b"<reserved_100>", b"<reserved_101>"
REQUESTS = [GenerationRequest(prompt=f"Redis 只 {number} carries" + " word" * number) for number in range(16)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def gguf(checkpoint: Path) -> Path:
    convert(checkpoint, checkpoint.with_name("gguf"), "gguf", gguf_type="f16")
    return checkpoint.with_name("gguf")


@pytest.fixture(scope="module")
def ours(checkpoint: Path) -> list[Completion]:
    return TextGenerator(checkpoint, GREEDY).complete(REQUESTS)


@pytest.mark.parity
def test_greedy_answers_and_their_probabilities_equal_ours(gguf: Path, ours: list[Completion]) -> None:
    generator = TextGenerator(gguf, GREEDY)
    assert generator.choice.name == "llama_cpp"
    theirs = generator.complete(REQUESTS)
    compared = [_equal_until_a_near_tie(mine, other) for mine, other in zip(ours, theirs, strict=True)]
    assert sum(compared) > len(REQUESTS) * GREEDY_TOKENS / 2


def test_penalties_and_limits_work_like_ours(checkpoint: Path, gguf: Path) -> None:
    strict = GenerationOptions(max_new_tokens=12, temperature=0, repetition_penalty=50.0)
    request = [GenerationRequest(prompt="Redis only carries messages, carries messages")]
    (mine,) = TextGenerator(checkpoint, strict).complete(request)
    (other,) = TextGenerator(gguf, strict).complete(request)
    assert other.text == mine.text
    assert (other.finish_reason, other.completion_tokens) == ("length", 12)


@pytest.fixture(scope="module")
def decided(checkpoint: Path) -> Path:
    """A GGUF file of a model whose most probable tokens are clearly apart, so that rounding does not matter."""
    directory = checkpoint.with_name("decided")
    model = load_model(checkpoint)
    model.model.norm.weight.data.mul_(20)
    model.save_pretrained(directory)
    copy_companion_files(checkpoint, directory)
    convert(directory, directory.with_name("decided-gguf"), "gguf", gguf_type="f32")
    return directory.with_name("decided-gguf")


def test_a_sample_depends_on_seed_and_prompt_alone(decided: Path) -> None:
    warm = GenerationOptions(max_new_tokens=16, temperature=1.0, top_k=0, top_p=1.0, seed=3, n=2)
    generator = TextGenerator(decided, warm)
    together = generator.complete(REQUESTS[:6])
    alone = [one for request in REQUESTS[:6] for one in generator.complete([request])]
    assert [one.text for one in alone] == [one.text for one in together]
    first, second = together[:2]
    assert first.text != second.text
    other_seed = TextGenerator(decided, replace(warm, seed=4, n=1))
    assert other_seed.complete(REQUESTS[:1])[0].text != first.text


def test_streamed_text_equals_the_whole_text(decided: Path) -> None:
    generator = TextGenerator(decided, GenerationOptions(max_new_tokens=12, temperature=1.0, seed=5, stop=("T",)))
    pieces = dict.fromkeys(range(len(REQUESTS)), "")
    finished = {}
    for event in generator.stream(REQUESTS):
        if isinstance(event, TextDelta):
            assert event.index not in finished
            pieces[event.index] += event.text
        else:
            finished[event.index] = event
    whole = generator.complete(REQUESTS)
    assert [finished[one.index].text for one in whole] == [one.text for one in whole]
    assert [pieces[one.index] for one in whole] == [one.text for one in whole]
    assert not any("T" in one.text for one in whole)
    assert {one.finish_reason for one in whole} == {"stop", "length"}


def test_every_token_has_its_probability_even_inside_a_character(checkpoint: Path, gguf: Path) -> None:
    """A high temperature and a small vocabulary produce many byte tokens, which llama.cpp's server omits."""
    hot = GenerationOptions(max_new_tokens=32, temperature=2.0, seed=1, logprobs=1, n=2)
    generator = TextGenerator(gguf, hot)
    byte_piece = generator.tokenizer.sp_model.IsByte
    completions = generator.complete(REQUESTS[:2])
    assert any(byte_piece(token.token_id) for one in completions for token in one.logprobs or ())
    for one in completions:
        prompt = generator.tokenizer.encode(REQUESTS[one.index].prompt)
        _assert_logprobs(checkpoint, prompt, one)


def test_a_run_writes_lines_and_reports_its_engine(gguf: Path, tmp_path: Path) -> None:
    report = generate(gguf, REQUESTS[:3], tmp_path / "out.jsonl", GenerationOptions(max_new_tokens=4, temperature=0))
    assert report.engine == "llama_cpp"
    assert "llama_cpp can run it" in report.engine_reason
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (GenerationOptions(engine="transformers"), "no safetensors"),
        (GenerationOptions(dtype="float32"), "dtype of a GGUF file cannot be changed"),
        (GenerationOptions(device="cuda"), "runs only on the CPU"),
    ],
)
def test_options_that_a_gguf_file_does_not_support_are_rejected(
    gguf: Path, options: GenerationOptions, message: str
) -> None:
    with pytest.raises(UnsupportedError, match=message):
        TextGenerator(gguf, options)


def test_a_server_has_a_single_batch(gguf: Path) -> None:
    with pytest.raises(UnsupportedError, match="llama_cpp supports only one open batch"):
        TextGenerator(gguf).open_lane(GenerationOptions())


def test_a_checkpoint_without_gguf_is_not_for_llama_cpp(checkpoint: Path) -> None:
    with pytest.raises(UnsupportedError, match="target gguf"):
        TextGenerator(checkpoint, GenerationOptions(engine="llama_cpp"))


def test_a_damaged_file_is_refused(checkpoint: Path, gguf: Path, tmp_path: Path) -> None:
    for file in gguf.iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[: len(content) // 2] if file.suffix == ".gguf" else content)
    with pytest.raises(CheckpointError, match="damaged"):
        TextGenerator(tmp_path).complete(REQUESTS[:1])


def test_a_file_that_makes_llama_cpp_abort_is_refused(gguf: Path, tmp_path: Path) -> None:
    for file in gguf.iterdir():
        content = file.read_bytes()
        twice = content.replace(TOKEN, OTHER_TOKEN, 1) if file.suffix == ".gguf" else content  # in the vocabulary
        (tmp_path / file.name).write_bytes(twice)
    with pytest.raises(CheckpointError, match="damaged"):
        TextGenerator(tmp_path).complete(REQUESTS[:1])


def _equal_until_a_near_tie(mine: Completion, other: Completion) -> int:
    """Return the number of equal tokens, after checking that at the first difference the two best tokens nearly tie."""
    for place, (expected, found) in enumerate(zip(mine.logprobs or (), other.logprobs or (), strict=True)):
        if expected.token_id != found.token_id:
            (_, best), (_, second) = expected.alternatives
            assert best - second < NEAR_TIE
            return place
        assert found.logprob == pytest.approx(expected.logprob, abs=NEAR_TIE)
    return len(mine.logprobs or ())


def _assert_logprobs(checkpoint: Path, prompt: Sequence[int], completion: Completion) -> None:
    model = load_model(checkpoint, dtype="float32", device="cpu")
    told = completion.logprobs or ()
    assert len(told) == completion.completion_tokens - (completion.finish_reason == "stop")
    ids = [*prompt, *(one.token_id for one in told)]
    with torch.inference_mode():
        logprobs = model(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1].log_softmax(dim=-1)
    for row, one in zip(logprobs, told, strict=True):
        assert one.logprob == pytest.approx(float(row[one.token_id]), abs=NEAR_TIE)
        assert one.alternatives[0][1] == pytest.approx(float(row.max()), abs=NEAR_TIE)
