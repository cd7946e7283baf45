"""Requirements of jobs: computed at submission or set by the user; jobs that can never run are rejected."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from footprint import PRESETS, Precision, estimate_inference
from jobs.errors import InvalidRequestError
from jobs.records import ModelRecord, WorkerRecord
from jobs.repository import models
from jobs.scheduling import Device, Machine, Requirement
from jobs.service import workers
from jobs.service.files import add as add_file
from jobs.service.files import build_file_record
from jobs.service.requirements import RUNNER_DEVICE_BYTES, RUNNER_HOST_BYTES, derive_requirement
from jobs.service.submission import Submission, submit
from jobs.specs import KINDS, SPEC_ADAPTER, ModelProperties
from tests.jobs.conftest import DETAILS, Deployment

GIB = 2**30
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
TINY = ModelRecord("p", "m", "checkpoint", "ready", None, None, "/m", None, DETAILS, 1)


def required(kind: str, model: ModelRecord = TINY, **fields: Any) -> Requirement:
    named = {} if kind == "pull" else {"model": model}
    names = {field: each.id for field, each in named.items()}
    spec = SPEC_ADAPTER.validate_python({"kind": kind, **names, **FEWEST_FIELDS[kind], **fields})
    return derive_requirement(spec, named, {}, on_gpu=True)


def test_only_finetune_jobs_have_exclusive_devices() -> None:
    assert {kind for kind in KINDS if required(kind).exclusive} == {"finetune"}
    assert not required("finetune", resources={"share": True}).exclusive
    assert required("generate", resources={"share": False}).exclusive


def test_a_job_that_streams_needs_no_device() -> None:
    assert required("convert").devices == 0
    assert required("pull") == Requirement(devices=0, host_memory_bytes=RUNNER_HOST_BYTES)
    assert required("quantize", quality_report=False).devices == 0
    assert required("quantize").devices == 1  # its report runs the model


def test_memory_is_the_estimate_plus_that_of_a_runner() -> None:
    known = ModelProperties.from_details(DETAILS)
    assert known is not None
    needs = estimate_inference(known.shape, known.precision, batch=1, tokens=128, shared=0)
    assert required("generate") == Requirement(
        device_memory_bytes=needs.least,
        reserve_bytes=needs.total + RUNNER_DEVICE_BYTES,
        host_memory_bytes=RUNNER_HOST_BYTES,
    )


def test_an_adapter_counts_as_its_base() -> None:
    adapter = replace(TINY, id="a", kind="adapter", base="m", details={})
    spec = SPEC_ADAPTER.validate_python({"kind": "generate", "model": "a", "prompts": ["x"]})
    assert derive_requirement(spec, {"model": adapter}, {"model": TINY}, on_gpu=True) == required("generate")


def test_a_model_of_unknown_size_gets_an_exclusive_device() -> None:
    assert required("generate", replace(TINY, details={})).exclusive


def test_a_gguf_file_needs_only_host_memory() -> None:
    needs = required("generate", replace(TINY, kind="gguf", details={"bytes": 8 * GIB}))
    assert (needs.devices, needs.host_memory_bytes) == (0, 10 * GIB + RUNNER_HOST_BYTES)


def test_the_user_may_override_requirements() -> None:
    asked = {"device_memory_bytes": 5 * GIB, "labels": {"room": "a"}}
    needs = required("generate", resources=asked)
    assert (needs.device_memory_bytes, needs.reserve_bytes, needs.labels) == (5 * GIB, 5 * GIB, (("room", "a"),))


@pytest.mark.parametrize(("asked", "named"), [({"devices": 2}, "devices is 2"), ({"nodes": 3}, "nodes is 3")])
def test_more_than_a_kind_can_use_is_rejected(asked: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        required("generate", resources=asked)


def test_rows_are_read_as_they_were_written() -> None:
    needs = required("finetune", resources={"labels": {"b": "1", "a": "2"}})
    assert Requirement.from_row(needs.to_row()) == needs
    assert Requirement.from_row({}).exclusive  # a row of the first schema


def report_worker(deployment: Deployment, name: str, *sizes: int, packages: Sequence[str] | None = None) -> None:
    devices = [
        {"type": "cuda", "index": i, "uuid": f"{name}-{i}", "name": "GPU", "memory_bytes": size * GIB}
        for i, size in enumerate(sizes)
    ]
    host: dict[str, Any] = {"memory_bytes": 64 * GIB}
    if packages is not None:
        host["packages"] = list(packages)
    record = WorkerRecord(name, "host", 1, "active", list(KINDS), 4, devices, 1, 1, host=host)
    with deployment.database.writing() as connection:
        workers.record_heartbeat(connection, record)


def submit_to(deployment: Deployment, kind: str = "generate", **fields: Any) -> object:
    large = {**PRESETS_7B, "precision": {"dtype": "bfloat16"}}
    record = ModelRecord(deployment.project_id, "large", "checkpoint", "ready", None, None, "/l", None, large, 1)
    with deployment.database.writing() as connection:
        models.add(connection, record)
        spec = SPEC_ADAPTER.validate_python({"kind": kind, "model": "large", **FEWEST_FIELDS[kind], **fields})
        return submit(connection, [Submission(deployment.project_id, spec)])[0]


PRESETS_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 125696,
    "max_position_embeddings": 4096,
    "position_embedding": "rope",
    "norm_head": True,
}


def test_a_job_larger_than_any_device_is_rejected_with_what_would_fit(deployment: Deployment) -> None:
    assert not isinstance(submit_to(deployment), Exception)  # no worker is known: it waits
    report_worker(deployment, "small", 8, 10)
    answer = submit_to(deployment)
    assert isinstance(answer, InvalidRequestError)
    assert answer.message.startswith("this job needs at least 13.98 GiB of memory, but the largest device, on small")
    assert "as int8: 7.95 GiB" in answer.message
    report_worker(deployment, "large", 80)
    assert not isinstance(submit_to(deployment), Exception)


def test_a_tracker_whose_package_no_worker_has_is_rejected(deployment: Deployment) -> None:
    data = build_file_record(deployment.project_id, "chats.json", "fine-tune", 1, "0" * 64)
    with deployment.database.writing() as connection:
        add_file(connection, data)
    fields: dict[str, Any] = {"kind": "finetune", "training_file": data.id, "report_to": ["wandb"]}
    assert not isinstance(submit_to(deployment, **fields), Exception)  # no worker is known: it waits
    report_worker(deployment, "plain", 80, packages=())
    answer = submit_to(deployment, **fields)
    assert isinstance(answer, InvalidRequestError)
    assert answer.param == "report_to"
    expected = 'no worker has wandb; run `pip install "baichuan-jobs[wandb]"` on a worker, or change report_to'
    assert answer.message == expected
    assert not isinstance(submit_to(deployment, **fields, resources={"workers": ["later"]}), Exception)
    report_worker(deployment, "equipped", 80, packages=("wandb",))
    assert not isinstance(submit_to(deployment, **fields), Exception)


def test_weights_of_the_preset_are_those_of_the_message() -> None:
    assert Precision().weight_bytes(PRESETS["baichuan2-7b"]) / GIB == pytest.approx(13.98, abs=0.01)


def test_host_memory_and_fewer_nodes_are_named() -> None:
    machine = Machine("w", frozenset(KINDS), 1, (Device("g", 0, 80 * GIB),), GIB // 4)
    assert not machine.could_hold(required("convert"))


def test_labels_and_the_cpu_requirements_of_a_runner_count(deployment: Deployment) -> None:
    cpu = {"type": "cpu", "index": 0, "uuid": "cpu-0", "name": "CPU", "memory_bytes": 2 * GIB}
    for name, room, size in (("a", "1", 8), ("b", "2", 2)):
        device = cpu | {"memory_bytes": size * GIB}
        labelled = WorkerRecord(name, "host", 1, "active", list(KINDS), 1, [device], 1, 1, labels={"room": room})
        with deployment.database.writing() as connection:
            workers.record_heartbeat(connection, labelled)
    asked = {"device_memory_bytes": 7 * GIB // 4, "labels": {"room": "2"}}
    answer = submit_to(deployment, resources=asked)
    assert isinstance(answer, InvalidRequestError)
    assert answer.param == "resources.device_memory_bytes"
    assert "needs at least 1.75 GiB of memory, but the largest device, on b, has 1.50 GiB" in answer.message
    assert not isinstance(submit_to(deployment, resources=asked | {"labels": {"room": "1"}}), Exception)
    assert not isinstance(submit_to(deployment, resources=asked | {"labels": {"room": "3"}}), Exception)
