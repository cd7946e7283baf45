"""Measure the quality that a trained model loses in int8 and 4 bits, with and without calibration.

Usage: python -m benchmarks.int4_quality DIRECTORY

The model of benchmarks/real_model.py is created in the directory if it does not exist. Every model is evaluated in
float32 on the first 6 x 512 tokens of Python's own documentation (`pydoc_data.topics`). See benchmarks/README.md.

The reference model comes from a GGUF file whose linear weights are Q4_1: 16 evenly spaced values per block of 32. This
favors uniform 4-bit grids (llama.cpp's Q4_1 would have a KL of 0) over NF4 and FP4. Compare the results only with each
other and with other non-uniform formats.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics

from baichuan_core import QuantizationOptions, load_model, quantize
from baichuan_core.likelihood import (
    PredictionComparison,
    ReferenceRun,
    compare_with_reference,
    load_calibration_text,
    run_reference,
    split_into_windows,
)
from baichuan_core.quantization import Calibration
from benchmarks.real_model import gguf_tokenizer, make_real_checkpoint

HELD_OUT_TOKENS = 6 * 512
# Text of another kind: a fixed copy of this project's documents, so that results of different machines are comparable.
OTHER_KIND = Path(__file__).with_name("texts") / "project_documents.txt"
SAME_KIND_START = 16 * 512  # far behind the held-out tokens, so that no topic is in both parts


def encode_texts() -> dict[str, list[int]]:
    """Return the token ids of the texts by name, encoded with the tokenizer that the model was trained with."""
    tokenizer = gguf_tokenizer()
    documentation = "\n".join(topics.values())
    other_kind = OTHER_KIND.read_text(encoding="utf-8")
    kinds = {"documentation": documentation, "other kind": other_kind, "built-in": load_calibration_text()}
    return {name: list(tokenizer(text).input_ids) for name, text in kinds.items()}


def list_options(ids: dict[str, list[int]], sequences: int) -> Iterator[tuple[str, QuantizationOptions]]:
    """Yield the options to measure, with their names."""
    kinds = {
        "text of another kind": ids["other kind"],
        "built-in text": ids["built-in"],
        "text of the same kind": ids["documentation"][SAME_KIND_START:],
    }
    for method in ("int8", "nf4", "fp4"):
        plain = QuantizationOptions(method, compute_dtype="float32")
        yield f"{method.upper()}", plain
        for kind, token_ids in kinds.items():
            calibration = Calibration(token_ids=[token_ids], sequences=sequences)
            yield f"{method.upper()}, {kind}", replace(plain, calibration=calibration)


def measure(checkpoint: Path, name: str, options: QuantizationOptions, reference: ReferenceRun) -> PredictionComparison:
    """Measure one quantized model and print its row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        report = quantize(checkpoint, Path(folder) / "model", options)
        seconds = time.monotonic() - started
        model = load_model(Path(folder) / "model", dtype="float32", device="cpu")
    found = compare_with_reference(reference, model)
    print(
        f"| {name} | {found.perplexity:.2f} | {found.kl_divergence:.4f} | {found.top_1_agreement:.3f} | "
        f"{report.mean_relative_error:.4f} | {report.bytes_after:,} | {seconds:.0f} |",
        flush=True,
    )
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--sequences", type=int, default=32, help="number of calibration rows of 512 tokens")
    parser.add_argument("--only", default="", help="measure only models whose names begin with this, e.g. NF4")
    arguments = parser.parse_args()
    checkpoint = make_real_checkpoint(arguments.directory)
    ids = encode_texts()
    windows = split_into_windows(ids["documentation"][:HELD_OUT_TOKENS], length=512, stride=512)
    reference = run_reference(load_model(checkpoint, dtype="float32", device="cpu"), windows)
    print("| model | perplexity | KL to float32 | equal greedy tokens | relative error | bytes | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    plain: dict[str, float] = {}
    for name, options in list_options(ids, arguments.sequences):
        if not name.startswith(arguments.only):
            continue
        found = measure(checkpoint, name, options, reference)
        if options.calibration is None:
            plain[options.method] = found.kl_divergence
            print(f"float32: perplexity {found.reference_perplexity:.2f}", flush=True)
        else:
            ratio = found.kl_divergence / plain[options.method]
            print(f"{name}: {ratio:.3f}x the KL without calibration", flush=True)


if __name__ == "__main__":
    main()
