"""How many devices a fine-tune gets if its spec leaves the strategy to the service."""

from typing import Any

import pytest

from footprint import ModelShape, TrainingSettings, estimate_rank_footprint
from jobs.errors import InvalidRequestError
from jobs.records import ModelRecord
from jobs.scheduling import Device, Machine, Requirement
from jobs.service.requirements import choose_requirement
from jobs.specs import SPEC_ADAPTER, ModelProperties

CONFIG = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 125_696,
    "model_max_length": 4096,
    "position_embedding": "rope",
    "precision": {"dtype": "bfloat16"},
}
MODEL = ModelRecord("project", "base", "checkpoint", "ready", None, None, "/base", None, CONFIG, 1)
HOST_BYTES = 2**42


def find(
    device_bytes: int, devices: int, host_bytes: int = HOST_BYTES, **fields: Any
) -> Requirement | InvalidRequestError:
    spec = {"kind": "finetune", "model": "base", "training_file": f"file-{'0' * 26}", "method": "full", "batch_size": 1}
    gpus = tuple(Device(f"GPU-{i}", i, device_bytes) for i in range(devices))
    machine = Machine("gpu-a", frozenset({"finetune"}), 8, gpus, host_bytes)
    return choose_requirement(SPEC_ADAPTER.validate_python({**spec, **fields}), {"model": MODEL}, {}, [machine])


def least_bytes(strategy: Any, ranks: int) -> int:
    model = ModelProperties.from_details(CONFIG)
    assert model is not None
    training = TrainingSettings(method="full", batch=1, tokens=512, on_gpu=True)
    return estimate_rank_footprint(
        ModelShape.from_config(CONFIG), model.precision, training, strategy, ranks
    ).device.least


def test_a_device_that_is_large_enough_is_the_only_one() -> None:
    found = find(2 * least_bytes("single", 1), devices=8)
    assert isinstance(found, Requirement)
    assert found.devices == 1


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_weights_are_sharded_over_as_many_devices_as_it_takes(devices: int) -> None:
    found = find(least_bytes("fsdp2", devices), devices=8)
    assert isinstance(found, Requirement)
    assert found.devices == devices


def test_models_that_fit_on_no_number_of_devices_are_offloaded() -> None:
    found = find(least_bytes("fsdp2", 2) - 1, devices=1)
    assert isinstance(found, Requirement)
    assert found.devices == 1
    assert found.host_memory_bytes > least_bytes("single", 1) // 2


def test_a_job_that_fits_nowhere_is_rejected_with_the_memory_per_device() -> None:
    found = find(2**30, devices=8, host_bytes=2**30)
    assert isinstance(found, InvalidRequestError)
    assert "the largest device, on gpu-a, has 1.00 GiB" in found.message


@pytest.mark.parametrize("fields", [{"strategy": "single"}, {"resources": {"devices": 1}}])
def test_the_users_choice_is_not_extended(fields: dict[str, Any]) -> None:
    found = find(least_bytes("fsdp2", 2), devices=8, host_bytes=2**36, **fields)
    assert isinstance(found, InvalidRequestError)
