"""Rejections before any process starts, and messages between machines."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baichuan_core import (
    CheckpointError,
    DatasetError,
    Distribution,
    FinetuningOptions,
    InsufficientMemoryError,
    RankFailedError,
    UnsupportedError,
    finetune,
)
from baichuan_core.finetuning.batches import Collator
from baichuan_core.finetuning.distributed import DistributionPlan, planning
from baichuan_core.finetuning.distributed import rendezvous as rendezvous_module
from baichuan_core.finetuning.distributed.agreement import require_same_inputs
from baichuan_core.finetuning.distributed.group import RankGroup
from baichuan_core.finetuning.distributed.planning import plan_run
from baichuan_core.finetuning.distributed.rank_collator import RankCollator
from baichuan_core.finetuning.distributed.rendezvous import Rendezvous
from baichuan_core.finetuning.example_store import EncodedExample, ExampleStore, StoredExamples
from baichuan_core.finetuning.identity import RunIdentity
from examples.tiny_checkpoint import CONVERSATIONS, make_tiny_checkpoint

CPU = FinetuningOptions(device="cpu", dtype="float32")
TWO = Distribution(strategy="ddp", processes=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"zero_optimisation": {"stage": 3}}, "zero_optimisation is not supported; .*zero_optimization"),
        ({}, "zero_optimization.stage is None"),
        ({"zero_optimization": 3}, "zero_optimization is 3; it must be a JSON object"),
        ({"zero_optimization": {"stage": 4}}, "zero_optimization.stage is 4"),
        ({"zero_optimization": {"stage": 3, "overlap_com": True}}, "zero_optimization.overlap_com is True"),
        ({"zero_optimization": {"stage": 3, "sub_group_size": "many"}}, "zero_optimization.sub_group_size is 'many'"),
        ({"zero_optimization": {"stage": 3, "offload_param": "cpu"}}, 'zero_optimization.offload_param is "cpu"'),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}, "offload_param.device is 'nvme'"),
        ({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}, "offload_param requires stage 3"),
        ({"zero_optimization": {"stage": 3}, "optimizer": {"type": "AdamW"}}, "optimizer is set by .*learning_rate"),
        ({"zero_optimization": {"stage": 3}, "gradient_clipping": 0.5}, "gradient_clipping is 0.5, but max_grad_norm"),
        ({"zero_optimization": {"stage": 3}, "train_batch_size": 64}, "train_batch_size is computed from"),
        ({"zero_optimization": {"stage": 3}, "bf16": {"enabled": True}}, "bf16.enabled is True, but dtype is float32"),
        ({"zero_optimization": {"stage": 3}, "fp16": {"enabled": True}}, "fp16.enabled must be false"),
    ],
)
def test_a_wrong_deepspeed_configuration_names_the_key(base: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        plan_run(base, CPU, Distribution(deepspeed=config, processes=2))


def test_the_published_deepspeed_configuration_is_completed(base: Path) -> None:
    published = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": 1.0,
        "bf16": {"enabled": "auto"},
        "zero_optimization": {
            "stage": 3,
            "overlap_comm": True,
            "stage3_gather_16bit_weights_on_model_save": True,
            "offload_param": {"device": "cpu"},
        },
    }
    plan = plan_run(base, replace(CPU, batch_size=3), Distribution(deepspeed=published, processes=2))
    assert (plan.strategy, plan.zero_stage, plan.world_size) == ("zero3-offload", 3, 2)
    assert plan.deepspeed is not None
    assert plan.deepspeed["train_micro_batch_size_per_gpu"] == 3
    assert plan.deepspeed["bf16"] == {"enabled": False}
    assert published["gradient_accumulation_steps"] == "auto"  # the caller's configuration is not modified


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strategy": "fsdp"}, "strategy is 'fsdp'; use one of 'auto'"),
        ({"strategy": "ddp", "deepspeed": {}}, "deepspeed and strategy 'ddp' are both given"),
        ({"processes": 0}, "processes is 0"),
        ({"nodes": 2, "node_rank": 2, "master_port": 1}, "node_rank is 2; with 2 nodes, use 0 to 1"),
        ({"nodes": 2}, "master_port is missing"),
        ({"master_port": 70_000}, "master_port is 70000"),
    ],
)
def test_a_wrong_distribution_names_the_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Distribution(**fields)


@pytest.mark.parametrize(
    ("options", "distribution", "message"),
    [
        (CPU, Distribution(strategy="single", processes=2), "'single' uses one process, but 2"),
        (CPU, Distribution(strategy="fsdp2", processes=1), "'fsdp2' needs at least two processes"),
        (replace(CPU, use_dora=True), Distribution(strategy="zero2", processes=2), "use_dora is true.*use 'ddp'"),
    ],
)
def test_incompatible_distributions_are_rejected(
    base: Path, options: FinetuningOptions, distribution: Distribution, message: str
) -> None:
    with pytest.raises(UnsupportedError, match=message):
        plan_run(base, options, distribution)


def test_without_gpus_auto_is_one_process_and_with_several_ddp(base: Path) -> None:
    assert plan_run(base, CPU, Distribution()).is_single_process
    plan = plan_run(base, CPU, Distribution(processes=2))
    assert (plan.strategy, plan.world_size) == ("ddp", 2)
    assert "every device holds the whole model" in plan.reason


@pytest.mark.parametrize("strategy", ["auto", "fsdp2"])
def test_too_little_memory_is_rejected_with_numbers(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: Any
) -> None:
    monkeypatch.setattr(planning, "total_bytes", lambda _: 2**20)
    with pytest.raises(
        InsufficientMemoryError, match=r"each of 2 processes needs at least .* GiB with .*, but has 0.00"
    ):
        finetune(
            base,
            CONVERSATIONS,
            tmp_path / "out",
            replace(CPU, method="full"),
            checkpoints=tmp_path / "checkpoints",
            distribution=Distribution(strategy=strategy, processes=2),
        )
    assert not (tmp_path / "checkpoints").exists()


def test_a_rank_of_another_launcher_is_rejected(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for distribution in (None, TWO):
        with pytest.raises(UnsupportedError, match="WORLD_SIZE is 2, so another launcher"):
            plan_run(base, CPU, distribution)


@dataclass(frozen=True)
class _Pair(RankGroup):
    """Rank 0 of two; `gather` returns `theirs` for the other rank."""

    theirs: str = ""

    def gather(self, value: Any) -> list[Any]:
        return [value, ("gpu-b", self.theirs)]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"training_data": "0"}, DatasetError, "the training data is different"),
        ({"validation_data": "0"}, DatasetError, "the validation data is different"),
        ({"base": {}}, CheckpointError, "the base checkpoint is different"),
        ({"options": {"learning_rate": 1.0}}, DatasetError, "learning_rate was 1.0 and is now 2e-05"),
    ],
)
def test_ranks_that_disagree_are_named(
    base: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    store = ExampleStore()
    store.append(EncodedExample([1, 2], [1, 2]))
    identity = RunIdentity.from_inputs(base, StoredExamples(store, np.arange(1)), None, CPU)
    fields: dict[str, Any] = {name: getattr(identity, name) for name in RunIdentity.__dataclass_fields__}
    theirs = json.dumps(
        {**fields, **change, "options": {**fields["options"], **change.get("options", {})}}, sort_keys=True
    )
    with pytest.raises(error, match=rf"rank 1 \(machine gpu-b\) and rank 0 .* disagree: .*{message}"):
        require_same_inputs(identity, _Pair(0, 0, 2, theirs))
    require_same_inputs(identity, _Pair(0, 0, 2, json.dumps(fields, sort_keys=True)))


def test_ranks_share_a_batch_and_one_without_an_example_has_no_labels() -> None:
    examples = [EncodedExample([index, 7, 8], [index, 7, 8]) for index in range(3)]
    parts = [RankCollator(Collator(0), rank, 4)(examples) for rank in range(4)]
    assert [part["input_ids"].tolist() for part in parts] == [[[0, 7, 8]], [[1, 7, 8]], [[2, 7, 8]], [[0, 7]]]
    assert parts[3]["labels"].eq(-100).all()
    shares = [RankCollator(Collator(0), rank, 2)(examples)["input_ids"][:, 0].tolist() for rank in range(2)]
    assert shares == [[0, 2], [1]]


@pytest.fixture
def machines() -> tuple[Rendezvous, Rendezvous]:
    """The launchers of two machines."""
    first = Rendezvous(DistributionPlan("ddp", "", processes=2, nodes=2, node_rank=0))
    second = Rendezvous(DistributionPlan("ddp", "", processes=2, nodes=2, node_rank=1, master_port=first.port))
    return first, second


def test_machines_with_different_plans_are_rejected(machines: tuple[Rendezvous, Rendezvous]) -> None:
    first, second = machines
    first.compare_plans()
    second.plan = replace(second.plan, processes=3)
    with pytest.raises(UnsupportedError, match="processes is 2 on machine 0 and 3 on machine 1"):
        second.compare_plans()
    third = Rendezvous(replace(second.plan, processes=2))
    with pytest.raises(UnsupportedError, match="node_rank 1 is already in use"):
        third.compare_plans()


def test_a_failure_on_one_machine_ends_the_other(machines: tuple[Rendezvous, Rendezvous]) -> None:
    first, second = machines
    first.exchange_heartbeats()
    second.report_failure(DatasetError("line 3 is broken"))
    first._next_beat = 0.0
    with pytest.raises(RankFailedError, match=r"stopped on another machine: machine 1 .*line 3 is broken"):
        first.exchange_heartbeats()


def test_a_machine_without_heartbeats_is_named(
    machines: tuple[Rendezvous, Rendezvous], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = machines
    monkeypatch.setattr(rendezvous_module, "HEARTBEAT_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(rendezvous_module, "HEARTBEAT_TIMEOUT_SECONDS", -1.0)
    second.exchange_heartbeats()
    second._store.check(["beat/1"])  # `set` returns before the store has the value
    first.exchange_heartbeats()  # it has seen a heartbeat
    with pytest.raises(RankFailedError, match="machine 1 is no longer responding"):
        first.exchange_heartbeats()


def test_machine_0_waits_until_the_others_have_finished(machines: tuple[Rendezvous, Rendezvous]) -> None:
    first, second = machines
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(first.close)
        second.close()
        waiting.result()


def test_a_port_that_is_taken_is_named() -> None:
    first = Rendezvous(DistributionPlan("ddp", "", processes=2, nodes=2))
    with pytest.raises(UnsupportedError, match=f"master_port {first.port} cannot be used"):
        Rendezvous(DistributionPlan("ddp", "", processes=2, nodes=2, master_port=first.port))
