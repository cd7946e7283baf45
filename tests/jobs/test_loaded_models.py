"""The models that jobs load, and where they are already loaded."""

from dataclasses import replace
from typing import Any

from jobs.records import ModelRecord, WorkerRecord
from jobs.repository import jobs as job_rows
from jobs.scheduling import LoadedModel, NodePlacement, Placement, Reservation, ResidentRunner
from jobs.service import workers
from jobs.service.dispatching import dispatch_job
from jobs.service.pool import read_machines
from jobs.service.requirements import derive_requirement
from jobs.specs import KINDS, SPEC_ADAPTER
from tests.jobs.conftest import Deployment
from tests.jobs.pool import CPU

BASE = ModelRecord("p", "base", "checkpoint", "ready", None, None, "/models/base", None, {}, 1)
ADAPTER = ModelRecord("p", "tuned", "adapter", "ready", "base", "job-1", None, "jobs/1/a/output/model", {}, 1)
FILE = "file-" + "0" * 26


def key_of(model: ModelRecord = BASE, base: ModelRecord | None = None, **spec: Any) -> str:
    fields = {"kind": "generate", "model": model.id, "prompts": ["x"], **spec}
    chosen = SPEC_ADAPTER.validate_python({name: value for name, value in fields.items() if value is not None})
    named = {"model": model} | ({"adapter": ADAPTER} if "adapter" in spec else {})
    return derive_requirement(chosen, named, {"model": base} if base else {}, on_gpu=False).model


def test_jobs_that_load_the_same_have_the_same_key() -> None:
    generation = key_of()
    evaluation = key_of(kind="evaluate", prompts=None, benchmark="perplexity", data_file=FILE)
    assert generation == evaluation == key_of(kind="quantize", prompts=None) == key_of(engine="transformers")
    assert generation == LoadedModel.from_records(BASE, None, "auto").key
    assert key_of(ADAPTER, BASE) == key_of(adapter="tuned") == LoadedModel.from_records(BASE, ADAPTER, "auto").key


def test_any_difference_in_the_loaded_model_changes_the_key() -> None:
    others = [
        key_of(),
        key_of(dtype="bfloat16"),
        key_of(ADAPTER, BASE),
        key_of(replace(BASE, path="/models/other")),
        key_of(replace(BASE, project_id="q")),
    ]
    assert len(set(others)) == len(others)


def test_kinds_that_do_not_run_the_model_have_no_key() -> None:
    fields_of: dict[str, dict[str, Any]] = {
        "convert": {"target": "safetensors"},
        "finetune": {"training_file": FILE},
        "quantize": {"quality_report": False},
    }
    for kind, fields in fields_of.items():
        spec = SPEC_ADAPTER.validate_python({"kind": kind, "model": "base", **fields})
        assert derive_requirement(spec, {"model": BASE}, {}, on_gpu=False).model == ""


def entry(model: LoadedModel) -> dict[str, Any]:
    """A worker's report of a resident."""
    fields = {name: getattr(model, name) for name in LoadedModel.__slots__}
    devices = [{"uuid": "cpu-0", "bytes": 5}]
    told = {"key": model.key, "engine": "transformers", "devices": devices, "host_bytes": 5, "since": 1, "busy": False}
    return fields | told


def worker(*loaded: LoadedModel) -> WorkerRecord:
    models = [entry(each) for each in loaded]
    return WorkerRecord("w", "host", 1, "active", list(KINDS), 4, [CPU], 1, 1, models=models)


def test_the_scheduler_sees_residents_and_which_jobs_use_them(deployment: Deployment) -> None:
    job = deployment.submit()
    with deployment.database.writing() as connection:
        stored = job_rows.get_many(connection, [job.id])[job.id].requirement
        workers.record_heartbeat(connection, worker(LoadedModel("p", "base", "/models/base", "auto")))
        place = (Reservation("cpu-0", 0, 1000),)
        dispatch_job(connection, Placement(job.id, (NodePlacement("w", place, 0),)), deployment.settings)
        (machine,) = read_machines(connection, deployment.settings)
    assert machine.residents == (ResidentRunner(LoadedModel("p", "base", "/models/base", "auto").key, ("cpu-0",)),)
    assert [holding.model for holding in machine.holdings] == [stored["model"]]
    assert stored["model"]


def test_a_worker_learns_which_loaded_models_are_obsolete(deployment: Deployment) -> None:
    with deployment.database.writing() as connection:
        good = LoadedModel(deployment.project_id, "base", "/models/base", "auto")
        moved, foreign = replace(good, source="/elsewhere"), replace(good, project_id="another")
        with_adapter = replace(good, adapter="gone", adapter_source="somewhere")
        orders = workers.record_heartbeat(connection, worker(good, moved, foreign, with_adapter))
        assert orders.obsolete_models == {moved.key, foreign.key, with_adapter.key}
        assert not orders.is_drained
        workers.drain(connection, "w", None, deployment.settings)
        assert workers.record_heartbeat(connection, worker(good)).is_drained
