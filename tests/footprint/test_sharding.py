"""Memory of fine-tuning on several ranks, and the choice of a strategy."""

from dataclasses import replace

import pytest

from footprint import (
    GIB,
    PRESETS,
    TRAINING_STRATEGIES,
    Cluster,
    ModelShape,
    Precision,
    TrainingSettings,
    TrainingStrategy,
    choose_strategy,
    estimate_finetuning,
    estimate_rank_footprint,
    explain_insufficient_memory,
)

SEVEN = PRESETS["baichuan2-7b"]
MIXED = Precision("bfloat16")
FULL = TrainingSettings(method="full", batch=1, tokens=512)
LORA = TrainingSettings(method="lora", batch=1, tokens=512)


def gpus(count: int, gib: int, *, host_gib: int = 512, nodes: int = 1) -> Cluster:
    return Cluster(count, gib * GIB, host_gib * GIB, nodes)


def test_memory_per_rank_equals_the_published_table() -> None:
    """Weights, float32 copies, moments and gradients, without temporary tensors."""
    numbers, ranks = SEVEN.parameter_count, 8
    zero3 = estimate_rank_footprint(SEVEN, MIXED, FULL, "zero3", ranks).device
    assert zero3.optimizer == pytest.approx(8 * numbers / ranks, rel=1e-6)
    assert estimate_rank_footprint(SEVEN, MIXED, FULL, "zero2", ranks).device.weights == pytest.approx(
        2 * numbers + 4 * numbers / ranks, rel=1e-6
    )
    offloaded = estimate_rank_footprint(SEVEN, MIXED, FULL, "zero3-offload", ranks)
    assert offloaded.host == pytest.approx((2 + 4 + 8 + 4) * numbers / ranks, rel=1e-6)
    assert offloaded.device.optimizer == 0
    ddp, single = (estimate_rank_footprint(SEVEN, MIXED, FULL, name, ranks).device for name in ("ddp", "single"))
    assert single == estimate_finetuning(SEVEN, MIXED, FULL)
    assert ddp.total - single.total == 4 * numbers


@pytest.mark.parametrize("training", [FULL, LORA])
@pytest.mark.parametrize("precision", [MIXED, Precision("float32")])
@pytest.mark.parametrize("strategy", TRAINING_STRATEGIES)
def test_more_ranks_never_need_more(
    strategy: TrainingStrategy, precision: Precision, training: TrainingSettings
) -> None:
    needed = [
        estimate_rank_footprint(SEVEN, precision, training, strategy, ranks).device.total for ranks in (2, 4, 8, 64)
    ]
    assert needed == sorted(needed, reverse=True)
    footprint = estimate_rank_footprint(SEVEN, precision, training, strategy, 2).device
    assert 0 < footprint.least <= footprint.total


@pytest.mark.parametrize(
    ("training", "cluster", "strategy"),
    [
        (LORA, gpus(1, 24), "single"),
        (LORA, gpus(2, 24), "ddp"),
        (FULL, gpus(1, 141), "single"),
        (FULL, gpus(8, 80), "fsdp2"),
        (FULL, gpus(2, 80), "fsdp2"),
        (FULL, gpus(4, 24, nodes=8), "fsdp2"),
        (FULL, gpus(1, 40), "zero3-offload"),
        (FULL, gpus(2, 24), "zero3-offload"),
        (FULL, Cluster(2, 0, 1024 * GIB, on_gpu=False), "ddp"),
        (FULL, Cluster(1, 0, 1024 * GIB, on_gpu=False), "single"),
    ],
)
def test_the_first_strategy_that_fits_is_chosen(training: TrainingSettings, cluster: Cluster, strategy: str) -> None:
    choice = choose_strategy(SEVEN, MIXED, training, cluster)
    assert choice is not None
    assert choice.strategy == strategy
    assert cluster.has_room_for(choice.needs)
    assert f"{choice.needs.device.total / GIB:.2f} GiB" in choice.reason
    others = {"fsdp2": ["ddp"], "zero3-offload": ["single"] if cluster.rank_count == 1 else ["ddp", "fsdp2"]}
    for name in others.get(strategy, []):
        assert f"{name} would need" in choice.reason


def test_quantized_weights_are_never_sharded() -> None:
    nf4 = Precision("bfloat16", quantization="nf4")
    thirteen = PRESETS["baichuan2-13b"]
    small = gpus(8, 8)
    assert choose_strategy(thirteen, nf4, LORA, small) is None
    assert "fsdp2" not in explain_insufficient_memory(thirteen, nf4, LORA, small)
    choice = choose_strategy(SEVEN, nf4, LORA, gpus(8, 16))
    assert choice is not None
    assert choice.strategy == "ddp"


def test_long_inputs_that_may_not_fit_are_reported() -> None:
    long = replace(LORA, tokens=4096, batch=64, gradient_checkpointing=False)
    choice = choose_strategy(SEVEN, MIXED, long, gpus(1, 24))
    assert choice is not None
    assert choice.strategy == "single"
    assert "may not fit" in choice.reason


def test_a_run_that_does_not_fit_is_explained_with_alternatives() -> None:
    cluster = gpus(2, 16, host_gib=32)
    assert choose_strategy(SEVEN, MIXED, FULL, cluster) is None
    text = explain_insufficient_memory(SEVEN, MIXED, FULL, cluster)
    for part in (
        "each of 2 processes",
        "with ddp",
        "with fsdp2",
        "with zero3-offload",
        "has 15.00 GiB",
        "16.00 GiB of host",
    ):
        assert part in text
    assert "fsdp2 on" in text
    assert "method lora on" in text
    tiny = ModelShape(8192, 22_016, 80, 64, 64_000)
    assert explain_insufficient_memory(tiny, MIXED, FULL, gpus(1, 2, host_gib=8)).endswith(
        "use machines with more memory"
    )
