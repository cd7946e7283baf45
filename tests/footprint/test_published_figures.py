"""Estimated weights of the published models, compared with the published memory and parameter counts."""

import pytest

from footprint import GIB, PRESETS, Precision, TrainingSettings, estimate_finetuning, format_gib

BFLOAT16 = Precision()
INT8 = Precision(quantization="int8")
INT4 = Precision(quantization="nf4")
INT4_AND_8_BIT_HEAD = Precision(quantization="nf4", quantize_head=True)


@pytest.mark.parametrize(
    ("preset", "precision", "arithmetic", "published"),
    [
        # From Baichuan2's README, "GPU memory" for bf16, int8 and int4.
        ("baichuan2-7b", BFLOAT16, 13.98, 14.0),
        ("baichuan2-7b", INT8, 7.95, 8.0),
        ("baichuan2-7b", INT4, 5.03, 5.1),
        ("baichuan2-7b", INT4_AND_8_BIT_HEAD, 4.07, None),
        ("baichuan2-13b", BFLOAT16, 25.88, 25.9),
        ("baichuan2-13b", INT8, 14.15, 14.2),
        ("baichuan2-13b", INT4, 8.46, 8.6),
        ("baichuan2-13b", INT4_AND_8_BIT_HEAD, 7.26, None),
    ],
)
def test_weights_in_gib(preset: str, precision: Precision, arithmetic: float, published: float | None) -> None:
    gib = precision.weight_bytes(PRESETS[preset]) / GIB
    assert round(gib, 2) == arithmetic
    assert published is None or gib == pytest.approx(published, rel=0.02)


def test_parameters_are_those_of_the_published_checkpoints() -> None:
    assert PRESETS["baichuan2-13b"].parameter_count * 2 == 27_793_336_320  # its index file
    assert [round(shape.parameter_count / 1e9, 2) for shape in PRESETS.values()] == [7.0, 13.26, 7.51, 13.9]


def test_full_training_takes_sixteen_bytes_per_parameter_and_lora_very_few() -> None:
    shape = PRESETS["baichuan2-7b"]
    short = TrainingSettings(tokens=64)
    full = estimate_finetuning(shape, BFLOAT16, short)
    assert (full.total, full.least) == (16 * shape.parameter_count, 16 * shape.parameter_count)
    adapter = estimate_finetuning(shape, BFLOAT16, TrainingSettings(method="lora", tokens=64, lora_rank=1))
    assert adapter.least - BFLOAT16.weight_bytes(shape) == 16 * shape.layers * 4 * shape.hidden_size


def test_batches_of_one_step_keep_the_gradients_of_those_before() -> None:
    shape, long = PRESETS["baichuan2-7b"], 8192
    one = estimate_finetuning(shape, BFLOAT16, TrainingSettings(tokens=long, gradient_checkpointing=False))
    two = estimate_finetuning(
        shape, BFLOAT16, TrainingSettings(tokens=long, gradient_checkpointing=False, accumulation=2)
    )
    assert (one.gradients, two.total - one.total) == (0, 4 * shape.parameter_count)


def test_bytes_are_formatted() -> None:
    assert format_gib(13_980_000_000) == "13.02 GiB"
