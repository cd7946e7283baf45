"""Memory estimates from a spec and the details of a model."""

from typing import Any

import pytest

from footprint import (
    PRESETS,
    Precision,
    TrainingSettings,
    compute_max_cached_prefix_tokens,
    estimate_calibration,
    estimate_conversion,
    estimate_finetuning,
    estimate_inference,
    estimate_quantization,
    estimate_scoring,
)
from jobs.specs import KINDS, SPEC_ADAPTER, ModelProperties

MODEL = ModelProperties(PRESETS["baichuan2-7b"], Precision())
SHAPE = MODEL.shape


FILE = "file-" + "0" * 26
FEWEST_FIELDS: dict[str, dict[str, Any]] = {
    "generate": {"prompts": ["x"]},
    "quantize": {},
    "convert": {"target": "safetensors"},
    "finetune": {"training_file": FILE},
    "evaluate": {"benchmark": "mmlu", "data_file": FILE},
    "preview": {"training_file": FILE},
    "serve": {},
    "pull": {"repository": "a/b"},
}


def footprints(kind: str, **fields: Any) -> Any:
    named = {} if kind == "pull" else {"model": "m"}
    return SPEC_ADAPTER.validate_python({"kind": kind, **named, **fields}).estimate_footprints(MODEL)


def footprint(kind: str, **fields: Any) -> Any:
    """Return the footprint of a job with one step."""
    (only,) = footprints(kind, **fields)
    return only


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_an_estimate(kind: str) -> None:
    assert all(step.total > 0 for step in footprints(kind, **FEWEST_FIELDS[kind]))


def test_the_estimate_of_each_kind_matches_its_steps() -> None:
    fields = {"training_file": FILE, "batch_size": 3, "max_length": 300, "gradient_accumulation_steps": 2}
    training = TrainingSettings(batch=3, tokens=300, gradient_checkpointing=False, accumulation=2)
    assert footprint("finetune", method="full", **fields) == estimate_finetuning(SHAPE, Precision(), training)
    assert footprint("convert", target="baichuan1") == estimate_conversion()
    asked = {"data_file": FILE, "batch_tokens": 5000, "dtype": "float32"}
    by_text = estimate_scoring(SHAPE, Precision("float32"), tokens=5000)
    assert footprint("evaluate", benchmark="perplexity", **asked) == by_text
    assert footprint("evaluate", benchmark="mmlu", shots=0, **asked) == by_text
    by_examples = estimate_scoring(SHAPE, Precision("float32"), tokens=5000, shared=4096)
    assert footprint("evaluate", benchmark="mmlu", **asked) == by_examples
    unknown_prompts = footprint("generate", input_file=FILE, batch_size=16)
    assert footprint("serve", batch_size=16) == unknown_prompts
    assert by_examples.total - by_text.total == by_examples.cache == 2 * 32 * 4096 * 4096 * 4


def test_a_quantization_is_counted_step_by_step() -> None:
    rewritten = estimate_quantization(SHAPE, quantize_head=False)
    assert footprints("quantize", quality_report=False) == [rewritten]
    calibrated = footprints("quantize", calibration=True, calibration_sequences=8, quality_report=False)
    assert calibrated == [rewritten, estimate_calibration(SHAPE, sequences=8)]
    first, report = footprints("quantize")
    assert first == rewritten
    # The report loads the unquantized model, or omits its measurements if that does not fit.
    assert report.weights == Precision().weight_bytes(SHAPE)
    assert (report.place, report.least) == ("device", 0)


def test_generation_counts_the_rows_that_run_at_once() -> None:
    prompts = ["x" * 200, "y" * 10]
    assert footprint("generate", prompts=prompts, max_new_tokens=56) == estimate_inference(
        SHAPE, Precision(), batch=2, tokens=256, shared=10
    )
    thrice = footprint("generate", prompts=prompts, max_new_tokens=56, n=3)
    assert thrice == estimate_inference(SHAPE, Precision(), batch=6, tokens=256, shared=2 * 200 + 3 * 10)
    chats = [[{"role": "user", "content": "z" * 99}, {"role": "assistant", "content": "z" * 99}]]
    assert footprint("generate", conversations=chats, max_new_tokens=56) == estimate_inference(
        SHAPE, Precision(), batch=1, tokens=256
    )
    # Nothing is known about a file: prompts may fill the context, and the engine may run as many as it allows.
    unknown = footprint("generate", input_file=FILE, batch_size=100)
    assert unknown == estimate_inference(SHAPE, Precision(), batch=4, tokens=4096, shared=4096)


def test_shared_prefixes_count_as_the_engine_keeps_them() -> None:
    assert compute_max_cached_prefix_tokens([900], batch_tokens=1000) == 0
    assert compute_max_cached_prefix_tokens([900, 100, 50], batch_tokens=1000) == 150  # two branching points
    assert compute_max_cached_prefix_tokens([90] * 9, batch_tokens=1000) == 250
    assert compute_max_cached_prefix_tokens([900] * 9, batch_tokens=1000) == 900  # one is kept however long it is


@pytest.mark.parametrize("details", [{}, {"hidden_size": 64}, {"precision": None}, {"precision": {"dtype": "odd"}}])
def test_insufficient_details_give_no_estimate(details: dict[str, Any]) -> None:
    assert ModelProperties.from_details(details) is None
