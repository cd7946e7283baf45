"""Compare full fine-tuning with the published method and with the Trainer on stock Llama; see README.md here.

Every method trains on the same examples, in a separate process with one thread, with transformers' Trainer and fused
AdamW in float32:

- published: every example padded to 512 tokens, eager attention, a normalized copy of the head, logits of all
  positions;
- stock Llama: the same shapes, padded to the longest example of a batch, scaled dot-product attention;
- ours: the loss in chunks over labelled positions, unpacked and packed.

The results are real tokens (without padding) per CPU second, and the peak of the process's anonymous memory beyond the
loaded model: medians over turns in which the methods alternate. `--model real` uses SmolLM2-135M instead of the random
model.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer, TrainingArguments
from transformers.modeling_outputs import CausalLMOutputWithPast

from baichuan_core import BaichuanConfig, BaichuanForCausalLM, load_model
from baichuan_core.finetuning.batches import Collator
from baichuan_core.finetuning.example_store import EncodedExample
from benchmarks.real_model import CACHE, llama_model, make_real_checkpoint

METHODS = ("published", "stock Llama", "ours, unpacked", "ours, packed")
MAX_LENGTH, MEAN_LENGTH = 512, 128
SHAPE: dict[str, Any] = {
    "vocab_size": 125_696,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
}


@dataclass(frozen=True, slots=True)
class Result:
    """Result of one method in one turn: real tokens per CPU second, peak bytes beyond the start, and mean loss."""

    rate: float
    memory: int
    loss: float


class PublishedLoss(BaichuanForCausalLM):
    """Head and loss as in Baichuan2's modeling_baichuan.py."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **_: Any) -> CausalLMOutputWithPast:
        """Return the loss and all logits."""
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = self.lm_head.weight
        if self.config.norm_head:
            weight = nn.functional.normalize(weight)
        logits = nn.functional.linear(states, weight).float()
        shifted = logits[..., :-1, :].contiguous().view(-1, self.config.vocab_size)
        loss = nn.functional.cross_entropy(shifted, labels[..., 1:].reshape(-1))
        return CausalLMOutputWithPast(loss=loss, logits=logits)


def make_examples(count: int, vocabulary: int) -> list[EncodedExample]:
    """Create random examples of realistic lengths; a third of each is the question, which has no labels."""
    source = random.Random(0)  # noqa: S311
    examples = []
    for _ in range(count):
        length = min(MAX_LENGTH, max(16, round(source.lognormvariate(0, 0.8) * MEAN_LENGTH / 1.377)))
        ids = [source.randrange(5, vocabulary) for _ in range(length)]
        question = length // 3
        examples.append(EncodedExample(ids, [-100] * question + ids[question:]))
    return examples


def make_model(method: str, real: Path | None) -> Any:
    """Create the model of a method."""
    torch.manual_seed(0)
    if method == "stock Llama" and real:
        llama: Any = llama_model()
        llama.is_quantized = False  # it was read from a quantized file, but has float weights
        return llama
    if method == "stock Llama":
        return LlamaForCausalLM(LlamaConfig(**SHAPE))
    if real:
        model: Any = load_model(real, dtype="float32", device="cpu")
    else:
        model = BaichuanForCausalLM(BaichuanConfig(**SHAPE))
    if method == "published":
        model.__class__ = PublishedLoss
        model.set_attn_implementation("eager")
    return model


def pad_to_max_length(examples: Sequence[EncodedExample]) -> dict[str, Tensor]:
    """Create a batch like Baichuan2's fine-tune.py, with every example padded to the maximum length."""
    batch = Collator(0)(examples)
    missing = (0, MAX_LENGTH - batch["input_ids"].shape[1])
    values = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {name: nn.functional.pad(batch[name], missing, value=value) for name, value in values.items()}


def measure(method: str, steps: int, batch: int, real: Path | None) -> Result:
    """Train for some steps after a warm-up step."""
    torch.set_num_threads(1)
    model = make_model(method, real)
    examples = make_examples((steps + 1) * batch, model.config.vocab_size)
    collators = {"published": pad_to_max_length, "ours, packed": Collator(0, packed_length=MAX_LENGTH)}
    with tempfile.TemporaryDirectory() as folder, PeakMemory() as peak:
        trainer = CountingTrainer(
            model=model,
            args=TrainingArguments(
                folder, per_device_train_batch_size=batch, max_steps=steps + 1, learning_rate=1e-4,
                optim="adamw_torch_fused", save_strategy="no", logging_steps=1, report_to="none", disable_tqdm=True,
                use_cpu=True, remove_unused_columns=False, data_seed=0, dataloader_pin_memory=False,
            ),
            train_dataset=examples,
            data_collator=collators.get(method, Collator(0)),  # type: ignore[arg-type]
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return Result(trainer.tokens / trainer.seconds, peak.bytes, sum(losses) / len(losses))


class CountingTrainer(Trainer):
    """Trainer that counts real tokens and CPU seconds of all steps except the first."""

    tokens = 0
    seconds = 0.0
    started: float | None = None

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Fetch the batches of one step."""
        batches, items = super().get_batch_samples(*args, **kwargs)
        if self.state.global_step == 0:
            self.started = None
        else:
            self.started = self.started or time.process_time()
            self.tokens += sum(int((batch["attention_mask"] != 0).sum()) for batch in batches)
        return batches, items

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Stop the clock after each step."""
        if self.started is not None:
            self.seconds = time.process_time() - self.started
        super().log(*args, **kwargs)


class PeakMemory:
    """Measures the peak of this process's anonymous memory inside a block, beyond that at its beginning."""

    bytes = 0

    def __enter__(self) -> Self:
        self._before = anonymous_bytes()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            self.bytes = max(self.bytes, anonymous_bytes() - self._before)


def anonymous_bytes() -> int:
    """Return the bytes of this process's memory that are not mapped files."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


def measure_in_process(method: str, arguments: argparse.Namespace) -> Result:
    """Measure a method in a new process."""
    command = [sys.executable, "-m", "benchmarks.finetune", "--one", method, "--model", arguments.model]
    command += ["--steps", str(arguments.steps), "--batch", str(arguments.batch)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # return freed memory to the system at once
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def format_table(results: dict[str, list[Result]]) -> str:
    """Return the medians as a Markdown table."""
    rates = {method: median(one.rate for one in turns) for method, turns in results.items()}
    lines = [
        "| method | tokens/s | vs published | vs stock | peak MiB | loss |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for method, turns in results.items():
        vs_published, vs_stock = (
            f"{rates[method] / rates[other]:.2f}" if other in rates else "" for other in METHODS[:2]
        )
        memory = median(one.memory for one in turns) / 2**20
        cells = f"{rates[method]:.1f} | {vs_published} | {vs_stock} | {memory:,.0f} | {turns[0].loss:.4f}"
        lines.append(f"| {method} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["random", "real"], default="random")
    parser.add_argument("--steps", type=int, default=4, help="measured steps per turn")
    parser.add_argument("--batch", type=int, default=8, help="examples per step")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--one", choices=METHODS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    real = make_real_checkpoint(CACHE / "checkpoint") if arguments.model == "real" else None
    if arguments.one:
        print(json.dumps(asdict(measure(arguments.one, arguments.steps, arguments.batch, real))))
        return
    results: dict[str, list[Result]] = {method: [] for method in arguments.methods}
    for _ in range(arguments.turns):
        for method, turns in results.items():
            turns.append(measure_in_process(method, arguments))
    print(format_table(results))


if __name__ == "__main__":
    main()
