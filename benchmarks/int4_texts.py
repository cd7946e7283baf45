"""How well calibrated NF4 carries over to other kinds of text: three texts, several seeds; see benchmarks/README.md.

Usage: python -m benchmarks.int4_texts DIRECTORY. The model of benchmarks/real_model.py is created there if necessary.
Each text is split: models are calibrated on one part and measured on 2 × 512 tokens of the other. Every line is a
calibration; its columns are the KL divergence to float32 on each held-out text, in nats per token, and their mean.

The linear weights of the reference model come from a Q4_1 file, so uniform 4-bit grids are favored on it: compare the
figures only with each other.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

from baichuan_core import QuantizationOptions, load_model, quantize
from baichuan_core.likelihood import (
    ReferenceRun,
    compare_with_reference,
    load_calibration_text,
    load_held_out_text,
    run_reference,
    split_into_windows,
)
from baichuan_core.quantization import Calibration
from benchmarks.int4_quality import OTHER_KIND, SAME_KIND_START
from benchmarks.real_model import gguf_tokenizer, make_real_checkpoint

HELD_OUT = 2 * 512
GAP = 2 * 512  # tokens between the two parts of a text, so that they share no passage
BUILT_IN_FRACTION = 1 / 8


@dataclass(frozen=True, slots=True)
class Text:
    """Token ids of a text to calibrate on, and of a text of the same kind to measure on."""

    calibration: list[int]
    held_out: list[int]


def read_texts() -> dict[str, Text]:
    """Return the three texts by name, in the tokenizer that the model was trained with."""
    tokenizer = gguf_tokenizer()

    def encode(text: str) -> list[int]:
        return list(tokenizer(text).input_ids)

    documents, python = encode(OTHER_KIND.read_text(encoding="utf-8")), encode("\n".join(topics.values()))
    return {
        "documents": Text(documents[HELD_OUT + GAP :], documents[:HELD_OUT]),
        "built-in": Text(encode(load_calibration_text()), encode(load_held_out_text())[:HELD_OUT]),
        "python": Text(python[SAME_KIND_START:], python[:HELD_OUT]),
    }


def calibrations(texts: dict[str, Text], sequences: int, seeds: int) -> Iterator[tuple[str, Calibration]]:
    """Yield what is measured, by name: each text alone, and with a fraction of built-in rows."""
    for name, text in texts.items():
        for fraction in (0.0, BUILT_IN_FRACTION) if name != "built-in" else (0.0,):
            for seed in range(seeds):
                label = f"{name}{', an eighth built-in' if fraction else ''}, seed {seed}"
                yield (
                    label,
                    Calibration(
                        token_ids=[text.calibration], sequences=sequences, seed=seed, built_in_fraction=fraction
                    ),
                )


def measure(checkpoint: Path, calibration: Calibration, references: dict[str, ReferenceRun]) -> list[float]:
    """Return the KL divergence of the calibrated model on each text."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "model"
        quantize(checkpoint, output, QuantizationOptions("nf4", compute_dtype="float32", calibration=calibration))
        model = load_model(output, dtype="float32", device="cpu")
    return [compare_with_reference(reference, model).kl_divergence for reference in references.values()]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--sequences", type=int, default=16, help="rows of 512 tokens per calibration")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="measure only calibrations whose names begin with this")
    arguments = parser.parse_args()
    checkpoint, texts = make_real_checkpoint(arguments.directory), read_texts()
    model = load_model(checkpoint, dtype="float32", device="cpu")
    references = {
        name: run_reference(model, split_into_windows(text.held_out, length=512, stride=512))
        for name, text in texts.items()
    }
    print(f"| calibrated on | {' | '.join(texts)} | mean |")
    print("| --- " * (len(texts) + 2) + "|")
    for name, calibration in calibrations(texts, arguments.sequences, arguments.seeds):
        if name.startswith(arguments.only):
            found = measure(checkpoint, calibration, references)
            print(f"| {name} | {' | '.join(f'{kl:.4f}' for kl in [*found, sum(found) / len(found)])} |", flush=True)


if __name__ == "__main__":
    main()
