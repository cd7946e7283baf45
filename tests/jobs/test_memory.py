"""From a spec and the details of a model to bytes."""

from typing import Any

import pytest

from footprint import PRESETS, Precision, Training, converting, finetuning, inference, quantizing, scoring
from jobs.memory import KnownModel, footprint_of
from jobs.specs import SPEC

MODEL = KnownModel(PRESETS["baichuan2-7b"], Precision())
SHAPE = MODEL.shape


def footprint(kind: str, **fields: Any) -> Any:
    return footprint_of(SPEC.validate_python({"kind": kind, "model": "m", **fields}), MODEL)


def test_each_kind_is_counted_as_it_runs() -> None:
    file_id = "file-" + "0" * 26
    fields = {"training_file": file_id, "batch_size": 3, "max_length": 300, "gradient_accumulation_steps": 2}
    training = Training(batch=3, tokens=300, gradient_checkpointing=False, accumulation=2)
    assert footprint("finetune", method="full", **fields) == finetuning(SHAPE, Precision(), training)
    assert footprint("quantize") == quantizing(SHAPE, quantize_head=False)
    assert footprint("convert", target="baichuan1") == converting(SHAPE, Precision())
    evaluated = footprint("evaluate", benchmark="mmlu", data_file=file_id, batch_tokens=5000, dtype="float32")
    assert evaluated == scoring(SHAPE, Precision("float32"), tokens=5000)


def test_generation_counts_the_rows_that_run_at_once() -> None:
    prompts = ["x" * 200, "y" * 10]
    assert footprint("generate", prompts=prompts, max_new_tokens=56) == inference(
        SHAPE, Precision(), batch=2, tokens=256
    )
    thrice = footprint("generate", prompts=prompts, max_new_tokens=56, n=3)
    assert thrice == inference(SHAPE, Precision(), batch=6, tokens=256)
    chats = [[{"role": "user", "content": "z" * 99}, {"role": "assistant", "content": "z" * 99}]]
    assert footprint("generate", conversations=chats, max_new_tokens=56) == inference(
        SHAPE, Precision(), batch=1, tokens=256
    )
    # Of a file nothing is known: prompts may be as long as the window, and as many run as the engine lets.
    unknown = footprint("generate", input_file="file-" + "0" * 26, batch_size=100)
    assert unknown == inference(SHAPE, Precision(), batch=4, tokens=4096)


@pytest.mark.parametrize("details", [{}, {"hidden_size": 64}, {"precision": None}, {"precision": {"dtype": "odd"}}])
def test_details_that_say_too_little_give_nothing(details: dict[str, Any]) -> None:
    assert KnownModel.from_details(details) is None
