"""llama.cpp computes the same from a converted file as we do from the checkpoint, or the conversion is rejected."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from baichuan_core import (
    BaichuanError,
    CheckpointError,
    GenerationOptions,
    GenerationRequest,
    TextGenerator,
    UnsupportedError,
    convert,
    load_model,
    load_tokenizer,
)
from baichuan_core.checkpoint import parallel_writer
from baichuan_core.conversion import GgufType

MakeDeep = Callable[..., Path]
MakeCheckpoint = Callable[..., Path]
OurGreedy = Callable[[Path, list[int], int], tuple[list[int], Tensor]]
TEXT = "Redis only carries messages. 你好，世界！ The queue is in SQL;\n\nit survives a crash.  <reserved_106> 😀 123"


@pytest.mark.parity
@pytest.mark.parametrize(
    ("family", "layers", "architecture"),
    [
        ("baichuan1-7b", 32, "baichuan"),
        ("baichuan2-7b", 32, "baichuan"),
        ("baichuan1-13b", 40, "baichuan"),
        ("baichuan2-13b", 40, "baichuan"),
        ("baichuan2-7b", 3, "llama"),
        ("baichuan1-7b", 40, "llama"),
    ],
)
def test_llama_cpp_has_our_logits(
    make_deep: MakeDeep,
    tmp_path: Path,
    llama_cpp: Any,
    our_greedy: OurGreedy,
    family: str,
    layers: int,
    architecture: str,
) -> None:
    checkpoint = make_deep(family, layers)
    convert(checkpoint, tmp_path / "gguf", "gguf", gguf_type="f32")
    assert field(tmp_path / "gguf", "general.architecture") == architecture
    prompt = load_tokenizer(checkpoint).encode_text(TEXT)
    tokens, logprobs = llama_cpp(tmp_path / "gguf" / "model.gguf").greedy(prompt, 8)
    expected_tokens, expected = our_greedy(checkpoint, prompt, 8)
    assert tokens == expected_tokens
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    "rotation",
    [{"rope_type": "default", "rope_theta": 100000.0}, {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}],
)
def test_the_rotation_of_the_configuration_is_kept(
    make_deep: MakeDeep, tmp_path: Path, llama_cpp: Any, our_greedy: OurGreedy, rotation: dict[str, Any]
) -> None:
    checkpoint = make_deep("baichuan2-7b", 2, rope_parameters=rotation)
    convert(checkpoint, tmp_path / "gguf", "gguf", gguf_type="f32")
    prompt = load_tokenizer(checkpoint).encode_text(TEXT)
    _, logprobs = llama_cpp(tmp_path / "gguf" / "model.gguf").greedy(prompt, 1)
    torch.testing.assert_close(logprobs, our_greedy(checkpoint, prompt, 1)[1], rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("gguf_type", "tolerance"),
    [("f16", 0.02), ("bf16", 0.2), ("q8_0", 0.2), ("q5_1", 1.2), ("q5_0", 1.2), ("q4_1", 2.5), ("q4_0", 2.5)],
)
def test_every_type_is_close_to_the_checkpoint(
    make_deep: MakeDeep, tmp_path: Path, llama_cpp: Any, our_greedy: OurGreedy, gguf_type: GgufType, tolerance: float
) -> None:
    checkpoint = make_deep("baichuan2-7b", 2)
    convert(checkpoint, tmp_path / "gguf", "gguf", gguf_type=gguf_type)
    prompt = load_tokenizer(checkpoint).encode_text(TEXT)
    _, logprobs = llama_cpp(tmp_path / "gguf" / "model.gguf").greedy(prompt, 1)
    _, expected = our_greedy(checkpoint, prompt, 1)
    assert (logprobs - expected).abs().max() < tolerance
    types = {tensor.name: tensor.tensor_type.name.lower() for tensor in reader(tmp_path / "gguf").tensors}
    assert types["blk.1.ffn_up.weight"] == gguf_type
    assert types["output.weight"] == ("q8_0" if gguf_type.startswith(("q4", "q5")) else gguf_type)
    assert types["blk.1.ffn_norm.weight"] == "f32"


def test_chunks_of_any_size_give_the_same_file(
    make_deep: MakeDeep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_deep("baichuan2-7b", 2)
    files = []
    for piece_bytes in (1, 1000, 2**20):
        monkeypatch.setattr(parallel_writer, "CHUNK_BYTES", piece_bytes)
        convert(checkpoint, tmp_path / str(piece_bytes), "gguf", gguf_type="q4_0")
        files.append((tmp_path / str(piece_bytes) / "model.gguf").read_bytes())
    assert files[0] == files[1] == files[2]


def test_a_tied_head_is_written_as_a_separate_head(
    make_deep: MakeDeep, tmp_path: Path, llama_cpp: Any, our_greedy: OurGreedy
) -> None:
    checkpoint = make_deep("baichuan1-7b", 32, tie_word_embeddings=True)
    convert(checkpoint, tmp_path / "gguf", "gguf", gguf_type="f32")
    _, logprobs = llama_cpp(tmp_path / "gguf" / "model.gguf").greedy([5, 600, 7], 1)
    torch.testing.assert_close(logprobs, our_greedy(checkpoint, [5, 600, 7], 1)[1], rtol=0, atol=5e-3)


def test_llama_cpp_has_our_tokenizer(make_deep: MakeDeep, tmp_path: Path, llama_cpp: Any) -> None:
    checkpoint = make_deep("baichuan2-7b", 1)
    convert(checkpoint, tmp_path / "gguf", "gguf")
    server = llama_cpp(tmp_path / "gguf" / "model.gguf")
    tokenizer = load_tokenizer(checkpoint)
    for text in (TEXT, " a", "   ", "é\0\x7f", "<s>"):
        request = {"content": text, "parse_special": True}
        assert server.post("/tokenize", request)["tokens"] == tokenizer(text).input_ids
    assert server.post("/detokenize", {"tokens": tokenizer(TEXT).input_ids})["content"] == TEXT


def test_the_metadata_of_the_file(make_deep: MakeDeep, tmp_path: Path) -> None:
    checkpoint = make_deep("baichuan2-7b", 2, vocab_size=1030)
    report = convert(checkpoint, tmp_path / "gguf", "gguf", gguf_type="q8_0")
    said = {
        "llama.block_count": 2,
        "llama.context_length": 512,
        "llama.attention.head_count": 4,
        "llama.vocab_size": 1030,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }
    assert {name: field(tmp_path / "gguf", name) for name in said} == said
    tokens = field(tmp_path / "gguf", "tokenizer.ggml.tokens")
    assert tokens[:3] + tokens[195:196] + tokens[1029:] == ["<unk>", "<s>", "</s>", "<reserved_106>", "[PAD1029]"]
    types = field(tmp_path / "gguf", "tokenizer.ggml.token_type")
    wanted = {0: "UNKNOWN", 2: "CONTROL", 195: "USER_DEFINED", 224: "BYTE", 900: "NORMAL", 1029: "UNUSED"}
    assert {token_id: gguf.TokenType(types[token_id]).name for token_id in wanted} == wanted
    assert report.bytes_after == sum(int(tensor.n_bytes) for tensor in reader(tmp_path / "gguf").tensors)
    files = {file.name for file in (tmp_path / "gguf").iterdir()}
    assert files >= {"model.gguf", "config.json", "tokenizer.model", "generation_config.json"}
    assert json.loads((tmp_path / "gguf" / "config.json").read_text())["norm_head"] is False
    assert len(load_tokenizer(tmp_path / "gguf")) == 1024


@pytest.mark.parametrize(
    ("family", "layers", "fields", "message"),
    [
        ("baichuan1-13b", 32, {}, "ALiBi and has 32 layers, .* models with 40 layers"),
        ("baichuan2-13b", 2, {}, "ALiBi and has 2 layers, .* models with 40 layers"),
        ("baichuan2-7b", 2, {"hidden_act": "gelu"}, "hidden_act is gelu, but llama.cpp"),
        ("baichuan2-7b", 2, {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic"),
        ("baichuan2-7b", 2, {"intermediate_size": 80}, "rows of 80 values, but q4_0 requires a multiple of 32"),
    ],
)
def test_models_that_llama_cpp_would_compute_wrongly_are_rejected(
    make_deep: MakeDeep, tmp_path: Path, family: str, layers: int, fields: dict[str, Any], message: str
) -> None:
    checkpoint = make_deep(family, layers, **fields)
    with pytest.raises(UnsupportedError, match=message):
        convert(checkpoint, tmp_path / "gguf", "gguf", gguf_type="q4_0")
    assert not (tmp_path / "gguf").exists()


def test_numbers_that_the_type_cannot_hold_are_an_error(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(hidden_act="silu")
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    model.model.layers[0].mlp.up_proj.weight.data[3, 3] = 1e6
    model.save_pretrained(checkpoint)
    with pytest.raises(CheckpointError, match=r"blk.0.ffn_up.weight has values .* too large for float16"):
        convert(checkpoint, tmp_path / "gguf", "gguf", gguf_type="f16")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    convert(checkpoint, tmp_path / "gguf", "gguf", gguf_type="bf16")
    with pytest.raises(CheckpointError, match=r"contains a GGUF file, for llama\.cpp: use the checkpoint"):
        load_model(tmp_path / "gguf")


def test_without_a_tokenizer_there_is_no_file(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    (checkpoint / "tokenizer.model").write_bytes(b"\xff\xff\xff")
    with pytest.raises(BaichuanError, match=r"tokenizer\.model"):
        convert(checkpoint, tmp_path / "gguf", "gguf")


def reader(directory: Path) -> Any:
    return gguf.GGUFReader(directory / "model.gguf")


def field(directory: Path, name: str) -> Any:
    return reader(directory).fields[name].contents()


@pytest.mark.parametrize(
    "template", [None, "<reserved_9>{{ messages[0].content }}", "{% generation %}a{% endgeneration %}"]
)
def test_the_chat_template_is_in_the_file(
    make_deep: MakeDeep, tmp_path: Path, llama_cpp: Any, template: str | None
) -> None:
    """By default it is that of the published format. llama.cpp loads files even if it cannot parse their template."""
    checkpoint = make_deep("baichuan2-7b", 1)
    chat_model = {"user_token_id": 195, "assistant_token_id": 196, "eos_token_id": 2}
    (checkpoint / "generation_config.json").write_text(json.dumps(chat_model))
    if template is not None:
        (checkpoint / "chat_template.jinja").write_text(template)
    convert(checkpoint, tmp_path / "gguf", "gguf")
    assert field(tmp_path / "gguf", "tokenizer.chat_template") == load_tokenizer(checkpoint).chat_template
    assert load_tokenizer(tmp_path / "gguf").chat_template == load_tokenizer(checkpoint).chat_template
    if template != "{% generation %}a{% endgeneration %}":
        server = llama_cpp(tmp_path / "gguf" / "model.gguf")
        said = server.post("/apply-template", {"messages": [{"role": "user", "content": "Who are you?"}]})
        assert "Who are you?" in said["prompt"]
        assert said["prompt"].startswith("<reserved_106>" if template is None else "<reserved_9>")
    options = GenerationOptions(max_new_tokens=2, temperature=0)
    requests = [GenerationRequest(prompt="a")]
    assert TextGenerator(tmp_path / "gguf", options).complete(requests)[0].completion_tokens == 2
