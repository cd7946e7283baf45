"""A trained model of 135M parameters learns a pattern by LoRA and answers cases it has not seen."""

import json
from pathlib import Path

import pytest

from baichuan_core import FinetuningOptions, GenerationOptions, GenerationRequest, finetune, generate
from baichuan_core.tokenizer.chat import Message
from benchmarks.real_model import make_real_checkpoint

SEEN = [
    "apple",
    "stone",
    "cloud",
    "bread",
    "garden",
    "winter",
    "music",
    "silver",
    "bridge",
    "candle",
    "mirror",
    "rabbit",
    "shadow",
    "turtle",
    "violet",
    "window",
    "yellow",
    "basket",
]
UNSEEN = ["ocean", "pencil", "paper", "river", "island", "forest"]

pytestmark = pytest.mark.alone


def test_lora_learns_a_pattern_for_unseen_cases(tmp_path: Path) -> None:
    base = make_real_checkpoint(tmp_path / "base")
    data = tmp_path / "data.jsonl"
    examples = [
        [
            {"role": "user", "content": f"Code for {word}?"},
            {"role": "assistant", "content": f"The code is {word} {word}-7."},
        ]
        for word in SEEN
    ]
    data.write_text("\n".join(json.dumps({"messages": messages}) for messages in examples))
    options = FinetuningOptions(
        epochs=6, learning_rate=2e-3, batch_size=9, max_length=64, lora_dropout=0.0, device="cpu", dtype="float32",
        lora_target_modules=("W_pack", "o_proj"),
    )  # fmt: skip
    finetune(base, data, tmp_path / "adapter", options, checkpoints=tmp_path / "checkpoints")
    asked = [GenerationRequest(messages=[Message(role="user", content=f"Code for {word}?")]) for word in UNSEEN]
    greedy = GenerationOptions(temperature=0, max_new_tokens=16, device="cpu")
    generate(base, asked, tmp_path / "answers.jsonl", greedy, adapter=tmp_path / "adapter")
    answers = [json.loads(line)["completion"] for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert answers == [f"The code is {word} {word}-7." for word in UNSEEN]
