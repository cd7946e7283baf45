"""Create a tiny checkpoint of any Baichuan family, in the layout of the published ones.

Usage: `python -m examples.tiny_checkpoint DIRECTORY`.

Its weights are random, so it generates noise until it is fine-tuned on `examples/conversations.json`.
"""

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import sentencepiece
import torch
from safetensors.torch import save_file

from baichuan_core import BaichuanConfig, BaichuanForCausalLM
from baichuan_core.tokenizer import Message

Family = Literal["baichuan1-7b", "baichuan1-13b", "baichuan2-7b", "baichuan2-13b"]

CONVERSATIONS = Path(__file__).with_name("conversations.json")

# Arguments of FinetuningOptions for the sample workflow; with them, the model memorizes every answer.
SAMPLE_TRAINING: dict[str, Any] = {
    "method": "full",
    "epochs": 60,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "lr_scheduler": "cosine",
    "warmup_ratio": 0.05,
    "weight_decay": 0.0,
    "max_length": 128,
    "gradient_checkpointing": False,
    "seed": 0,
}

VOCABULARY_SIZE = 1024
WINDOW = 512
HIDDEN_SIZE = 128  # all layer sizes are multiples of 64, the block size of 4-bit quantization
INTERMEDIATE_SIZE = 384
LAYERS = 2
HEADS = 4

# In this order, <reserved_106> and <reserved_107> get ids 195 and 196, as in Baichuan 2.
RESERVED_PIECES = [f"<reserved_{number}>" for number in (*range(108, 194), *range(108))]


def make_tiny_checkpoint(directory: Path, *, family: Family = "baichuan2-7b", seed: int = 0) -> Path:
    """Write the configuration, generation settings, tokenizer and random weights into `directory`.

    Args:
        directory: Directory of the checkpoint; created if missing.
        family: Model family whose layout to use.
        seed: Seed of the random weights; the same seed produces the same bytes.

    Returns:
        The directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(directory)
    settings = _published_config(family)
    _write_json(directory / "config.json", settings)
    _write_json(directory / "generation_config.json", _published_generation_config(family))
    _write_weights(directory, settings, seed)
    return directory


def taught_answers() -> list[tuple[list[Message], str]]:
    """Return the sample data set: each answer with the messages before it."""
    exchanges: list[tuple[list[Message], str]] = []
    for conversation in json.loads(CONVERSATIONS.read_text(encoding="utf-8")):
        messages: list[Message] = []
        for turn in conversation["conversations"]:
            if turn["from"] == "gpt":
                exchanges.append((list(messages), turn["value"]))
            messages.append({"role": "user" if turn["from"] == "human" else "assistant", "content": turn["value"]})
    return exchanges


def _write_tokenizer(directory: Path) -> None:
    model = io.BytesIO()  # trained in memory, because a file's name would be written into the model
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_sentences(),
        model_writer=model,
        vocab_size=VOCABULARY_SIZE,
        model_type="bpe",
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        user_defined_symbols=RESERVED_PIECES,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    (directory / "tokenizer.model").write_bytes(model.getvalue())
    pieces = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"}
    settings = {
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": WINDOW,
        "sp_model_kwargs": {},
        "tokenizer_class": "BaichuanTokenizer",
        "use_fast": False,
        **{name: {"__type": "AddedToken"} | _published_piece(content) for name, content in pieces.items()},
    }
    _write_json(directory / "tokenizer_config.json", settings)
    special = {name: _published_piece(content) for name, content in pieces.items()}
    _write_json(directory / "special_tokens_map.json", special)


def _sentences() -> Iterator[str]:
    for example in json.loads(CONVERSATIONS.read_text(encoding="utf-8")):
        for turn in example["conversations"]:
            yield turn["value"]
    yield "".join(map(chr, range(0x20, 0x7F)))  # so that every printable ASCII character is a token


def _published_piece(content: str) -> dict[str, Any]:
    return {
        "content": content,
        "lstrip": False,
        "normalized": True,
        "rstrip": False,
        "single_word": True,
    }


def _published_config(family: Family) -> dict[str, Any]:
    lengths = {"model_max_length": WINDOW}
    if family.endswith("7b"):
        lengths["max_position_embeddings"] = WINDOW
    if family == "baichuan1-7b":
        del lengths["model_max_length"]
    return {
        "architectures": ["BaiChuanForCausalLM" if family == "baichuan1-7b" else "BaichuanForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": HIDDEN_SIZE,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE_SIZE,
        **lengths,
        "model_type": "baichuan",
        # For published checkpoints this is inferred from the vocabulary size, which differs here.
        "norm_head": family.startswith("baichuan2"),
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": VOCABULARY_SIZE,
    }


def _published_generation_config(family: Family) -> dict[str, Any]:
    return {
        "assistant_token_id": 196,
        "bos_token_id": 1,
        "do_sample": True,
        "eos_token_id": 2,
        "max_new_tokens": WINDOW // 4,
        "pad_token_id": 0,
        "repetition_penalty": 1.05 if family.startswith("baichuan2") else 1.1,
        "temperature": 0.3,
        "top_k": 5,
        "top_p": 0.85,
        "user_token_id": 195,
    }


def _write_weights(directory: Path, settings: dict[str, Any], seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BaichuanForCausalLM(BaichuanConfig(**settings))
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Create a checkpoint from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--family", choices=get_args(Family), default="baichuan2-7b")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make_tiny_checkpoint(arguments.directory, family=arguments.family, seed=arguments.seed)
    print(arguments.directory)


if __name__ == "__main__":
    main()
