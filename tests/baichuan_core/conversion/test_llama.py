"""A model in Llama's format computes the same as ours, without this package."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from baichuan_core import TokenizerError, UnsupportedError, convert, load_model, load_tokenizer
from baichuan_core.conversion.llama_tokenizer import write_llama_tokenizer

MakeDeep = Callable[..., Path]
STOCK = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

root, texts = Path(sys.argv[1]), json.loads(sys.argv[2])
for directory in root.glob("llama-*"):
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(directory)
        assert type(model) is LlamaForCausalLM
        logits = model(load_file(root / "inputs.safetensors")["input_ids"]).logits
        save_file({"logits": logits}, root / f"{directory.name}.logits")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    ids = [tokenizer(text).input_ids for text in texts]
    found = {"ids": ids, "texts": [tokenizer.decode(each) for each in ids]}
    found |= {"eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    (root / f"{directory.name}.json").write_text(json.dumps(found))
assert not [name for name in sys.modules if name.startswith("baichuan")]
"""
TEXTS = ["你好，世界！ Redis only  carries messages.", " <reserved_106>a\n\n", "", "😀 é \0", "123 4567"]
CASES: dict[str, dict[str, Any]] = {
    "baichuan2": {},
    "other base": {"norm_head": False, "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}},
    "scaled": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
    "tied and normalized": {"tie_word_embeddings": True},
    "tied": {"tie_word_embeddings": True, "norm_head": False},
}


@torch.no_grad()
def test_stock_transformers_has_our_logits_and_ids(make_deep: MakeDeep, tmp_path: Path) -> None:
    input_ids = torch.randint(0, 1024, (2, 50), generator=torch.Generator().manual_seed(0))
    save_file({"input_ids": input_ids}, tmp_path / "inputs.safetensors")
    expected = {}
    for name, fields in CASES.items():
        checkpoint = make_deep("baichuan2-7b", 2, **fields)
        expected[name] = load_model(checkpoint, device="cpu")(input_ids).logits
        convert(checkpoint, tmp_path / f"llama-{name}", "llama")
    ids = [load_tokenizer(checkpoint)(text).input_ids for text in TEXTS]

    command = [sys.executable, "-W", "error", "-c", STOCK, str(tmp_path), json.dumps(TEXTS)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr

    for name, logits in expected.items():
        found = load_file(tmp_path / f"llama-{name}.logits")["logits"]
        torch.testing.assert_close(found, logits, rtol=0, atol=2e-5)
        told = json.loads((tmp_path / f"llama-{name}.json").read_text())
        assert told == {"ids": ids, "texts": TEXTS, "eos": 2, "pad": 0}


def test_the_llama_format_can_be_converted_back(make_deep: MakeDeep, tmp_path: Path) -> None:
    checkpoint = make_deep("baichuan1-7b", 3)
    convert(checkpoint, tmp_path / "llama", "llama")
    before, after = (load_file(path / "model.safetensors") for path in (checkpoint, tmp_path / "llama"))
    for name, tensor in before.items():
        names = [name.replace("W_pack", f"{letter}_proj") for letter in "qkv"] if "W_pack" in name else [name]
        assert torch.equal(torch.cat([after.pop(each) for each in names]), tensor)
    assert not after


def test_alibi_is_refused(make_deep: MakeDeep, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"uses ALiBi.*Llama supports only RoPE"):
        convert(make_deep("baichuan2-13b", 1), tmp_path / "llama", "llama")
    assert not (tmp_path / "llama").exists()


def test_a_tokenizer_of_another_family_is_refused(make_deep: MakeDeep, tmp_path: Path) -> None:
    checkpoint = make_deep("baichuan2-7b", 1)
    other = io.BytesIO()
    sentences = iter(["some words of another family"])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences, model_writer=other, vocab_size=30, model_type="bpe", minloglevel=2
    )
    (checkpoint / "tokenizer.model").write_bytes(other.getvalue())
    with pytest.raises(TokenizerError, match="adds a space before every text"):
        convert(checkpoint, tmp_path / "llama", "llama")
    assert not (tmp_path / "llama").exists()


class Both:
    """Our tokenizer, and the converted one."""

    def __init__(self, source: Path, target: Path) -> None:
        write_llama_tokenizer(source, target)
        self.ours = load_tokenizer(source)
        self.converted = PreTrainedTokenizerFast.from_pretrained(target)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory, golden_root: Path) -> dict[str, Both]:
    """The tokenizers of the recorded file: as published, and with bos and eos around every text."""
    made = {}
    for name, settings in {"plain": {}, "ends": {"add_bos_token": True, "add_eos_token": True}}.items():
        source, target = (tmp_path_factory.mktemp(each) for each in ("source", "target"))
        (source / "tokenizer.model").write_bytes((golden_root / "chat" / "tokenizer.model").read_bytes())
        (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BaichuanTokenizer"} | settings))
        (source / "config.json").write_text(
            json.dumps({"model_type": "baichuan", "vocab_size": 4000, "norm_head": False})
        )
        made[name] = Both(source, target)
    return made


@pytest.mark.parity
def test_ids_are_the_published_ones(golden_root: Path, tokenizers: dict[str, Both]) -> None:
    cases = json.loads((golden_root / "chat" / "tokenizer_cases.json").read_text())
    assert len(cases) == 42
    for case in cases:
        assert tokenizers["plain"].converted(case["text"]).input_ids == case["ids"], case["text"]


@given(text=st.text(max_size=60) | st.text(alphabet="ab \u2581<>/sunk你好0\n", max_size=60))
@pytest.mark.parametrize("name", ["plain", "ends"])
def test_ids_of_any_text(tokenizers: dict[str, Both], name: str, text: str) -> None:
    both = tokenizers[name]
    assert both.converted(text).input_ids == both.ours(text).input_ids
    assert both.converted(text, "x").input_ids == both.ours(text, "x").input_ids


@pytest.mark.parametrize("place", ["tokenizer_config.json", "chat_template.jinja", "published"])
def test_the_chat_template_is_kept(make_deep: MakeDeep, tmp_path: Path, place: str) -> None:
    """This includes the template of a published format, which is in no file of a published model."""
    checkpoint = make_deep("baichuan2-7b", 1)
    chat_model = {"user_token_id": 195, "assistant_token_id": 196, "eos_token_id": 2}
    (checkpoint / "generation_config.json").write_text(json.dumps(chat_model))
    template = "{% for message in messages %}<reserved_9>{{ message.content }}{% endfor %}"
    if place == "chat_template.jinja":
        (checkpoint / place).write_text(template)
    elif place == "tokenizer_config.json":
        settings = json.loads((checkpoint / place).read_text())
        (checkpoint / place).write_text(json.dumps({**settings, "chat_template": template}))
    convert(checkpoint, tmp_path / "llama", "llama")
    stock: Any = PreTrainedTokenizerFast.from_pretrained(tmp_path / "llama")
    ours = load_tokenizer(checkpoint)
    assert stock.chat_template == ours.chat_template
    chat = [{"role": "user", "content": "Who are you?"}]
    ids = stock.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    question = ours.encode_text("Who are you?")
    assert ids == ([195, *question, 196] if place == "published" else [*ours.encode("<reserved_9>"), *question])
