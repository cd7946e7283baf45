"""`client.fine_tuning.jobs`."""

from typing import Any

import openai
import pytest

from jobs.state import Event
from tests.api.conftest import Api
from tests.api.openai.conftest import EXAMPLES, lines
from tests.jobs.pool import hold

RESULT = {
    "final_loss": 1.5,
    "steps": 6,
    "examples": 3,
    "dropped_examples": 0,
    "truncated_examples": 0,
    "trained_parameters": 10,
    "resumed_from_step": 0,
    "tokens": 100,
    "best_step": 4,
    "best_eval_loss": 1.25,
}


def end(api: Api, attempt: str, event: Event, code: str = "x") -> None:
    with api.database.writing() as connection:
        hold(connection, attempt, "wrk-1", api.settings).end(event, {"code": code, "message": f"because of {code}"})


def test_from_creation_to_success(client: openai.OpenAI, api: Api, training_file: str) -> None:
    validation = client.files.create(file=lines(EXAMPLES), purpose="fine-tune").id
    job = client.fine_tuning.jobs.create(
        model="base",
        training_file=training_file,
        validation_file=validation,
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": 0.5}},
        },
        suffix="my-chat",
        seed=7,
        metadata={"team": "search", 'odd "key"': "值"},
        extra_body={"baichuan": {"lora_rank": 4, "packing": False, "labels": {"a": "b"}}},
    )
    assert (job.object, job.status, job.model, job.seed) == ("fine_tuning.job", "queued", "base", 7)
    assert (job.error, job.fine_tuned_model, job.finished_at, job.trained_tokens) == (None, None, None, None)
    assert job.hyperparameters.model_dump() == {"batch_size": "auto", "learning_rate_multiplier": 0.5, "n_epochs": 2}
    assert job.method is not None
    assert job.method.type == "supervised"
    assert job.metadata == {"team": "search", 'odd "key"': "值"}
    assert (job.training_file, job.validation_file) == (training_file, validation)
    assert job.organization_id == "default"
    spec = api.client.get(f"/v1/jobs/{job.id}").json()["spec"]
    assert (spec["lora_rank"], spec["packing"], spec["epochs"], spec["seed"]) == (4, False, 2, 7)
    assert spec["learning_rate"] == pytest.approx(1e-4)
    assert spec["labels"] == {"a": "b"}

    attempt = api.start(job.id)
    api.report(attempt, progress={"fraction": 0.5, "stage": "training", "metrics": {"loss": 2.0, "eta_seconds": 60.0}})
    running = client.fine_tuning.jobs.retrieve(job.id)
    assert (running.status, running.hyperparameters.batch_size) == ("running", 8)
    assert running.estimated_finish is not None
    api.finish(job.id, attempt, {"model/adapter_config.json": b"{}", "training/series.jsonl": b"{}\n"}, RESULT)
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.status == "succeeded"
    assert done.fine_tuned_model == f"base/my-chat/{job.id[-8:]}"
    assert client.models.retrieve(done.fine_tuned_model).id == done.fine_tuned_model
    assert [client.files.retrieve(each).filename for each in done.result_files] == ["training/series.jsonl"]
    assert client.files.retrieve(done.result_files[0]).purpose == "fine-tune-results"
    assert client.files.content(done.result_files[0]).text == "{}\n"
    assert done.trained_tokens == 200
    assert done.finished_at is not None
    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(job.id)
    assert checkpoint.fine_tuned_model_checkpoint == done.fine_tuned_model
    assert (checkpoint.step_number, checkpoint.metrics.train_loss, checkpoint.metrics.full_valid_loss) == (4, 1.5, 1.25)
    assert client.models.delete(done.fine_tuned_model).deleted


def test_events(client: openai.OpenAI, api: Api, training_file: str) -> None:
    job = client.fine_tuning.jobs.create(model="base", training_file=training_file)
    attempt = api.start(job.id)
    metrics = {"loss": 2.0, "step": 1.0, "steps": 6.0}
    api.report(attempt, "a line", progress={"fraction": 0.5, "stage": "training", "metrics": metrics})
    end(api, attempt, Event.FAIL, "dataset")
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=2))
    assert [event.message for event in events] == [
        "The job is failed: because of dataset",
        "Step 1/6: training loss=2",
        "The job is running",
        "The job is dispatched",
        "The job is queued",
    ]
    assert [event.level for event in events] == ["error", "info", "info", "info", "info"]
    assert (events[1].type, events[1].data) == ("metrics", {"train_loss": 2.0, "step": 1.0, "total_steps": 6.0})
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.list_events(job.id, after="job-other:3")
    assert list(client.fine_tuning.jobs.checkpoints.list(job.id)) == []


@pytest.mark.parametrize(("code", "event"), [("timeout", Event.FAIL), ("runner_killed", Event.STUMBLE)])
def test_a_failed_job_has_an_error_and_no_other_job_has_one(
    client: openai.OpenAI, api: Api, training_file: str, code: str, event: Event
) -> None:
    extra = {"baichuan": {"max_attempts": 2}}
    job = client.fine_tuning.jobs.create(model="base", training_file=training_file, extra_body=extra)
    if event is Event.STUMBLE:
        end(api, api.start(job.id), event, code)
        again = client.fine_tuning.jobs.retrieve(job.id)
        assert (again.status, again.error) == ("queued", None)
    end(api, api.start(job.id), event, code)
    failed = client.fine_tuning.jobs.retrieve(job.id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == (code, f"because of {code}")


def test_pausing_and_resuming(client: openai.OpenAI, api: Api, training_file: str) -> None:
    job = client.fine_tuning.jobs.create(model="base", training_file=training_file)

    def true_state(found: Any) -> tuple[str, str]:
        return found.status, found.baichuan["state"]

    assert true_state(client.fine_tuning.jobs.pause(job.id)) == ("queued", "paused")
    assert true_state(client.fine_tuning.jobs.pause(job.id)) == ("queued", "paused")
    assert true_state(client.fine_tuning.jobs.resume(job.id)) == ("queued", "queued")
    attempt = api.start(job.id)
    assert true_state(client.fine_tuning.jobs.pause(job.id)) == ("running", "pausing")
    with api.database.writing() as connection:
        hold(connection, attempt, "wrk-1", api.settings).end(Event.RELEASE)
    assert true_state(client.fine_tuning.jobs.retrieve(job.id)) == ("queued", "paused")
    assert true_state(client.fine_tuning.jobs.resume(job.id)) == ("queued", "queued")
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.ConflictError, match="only a paused job can be resumed"):
        client.fine_tuning.jobs.resume(job.id)


def test_listing(client: openai.OpenAI, api: Api, training_file: str) -> None:
    made = [
        client.fine_tuning.jobs.create(
            model="base", training_file=training_file, metadata={"n": str(number), "k.x": "v"}
        ).id
        for number in range(3)
    ]
    ours = api.submit(kind="finetune", training_file=training_file, epochs=0.5)["id"]
    api.submit()
    listed = list(client.fine_tuning.jobs.list(limit=2))
    assert [job.id for job in listed] == [ours, *reversed(made)]
    assert listed[0].hyperparameters.n_epochs is None
    assert listed[0].metadata is None
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"n": "1", "k.x": "v"})] == [made[1]]
    assert list(client.fine_tuning.jobs.list(metadata={"n": "none"})) == []
    for wrong, param in ({"limit": "0"}, "limit"), ({"order": "asc"}, "order"), ({"metadata": "null"}, "metadata"):
        with pytest.raises(openai.BadRequestError) as caught:
            client.fine_tuning.jobs.list(extra_query=wrong)
        assert caught.value.param == param
    generate = api.submit(kind="generate", prompts=["x"])["id"]
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.retrieve(generate)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": "nobody"}, "model"),
        ({"training_file": "file-none"}, "training_file"),
        ({"training_file": "file-" + "0" * 26}, "training_file"),
        ({"validation_file": "file-" + "0" * 26}, "validation_file"),
        ({"method": {"type": "dpo"}}, "method.type"),
        ({"method": {"type": "supervised", "dpo": {}}}, "method.dpo"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, "integrations"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"batch_size": "many"}}, "hyperparameters.batch_size"),
        ({"hyperparameters": {}, "method": {"type": "supervised"}}, "hyperparameters"),
        ({"hyperparameters": {"batch_size": 100_000}}, "method.supervised.hyperparameters.batch_size"),
        ({"suffix": "no spaces"}, "suffix"),
        ({"metadata": {"a": "b" * 513}}, "metadata.a"),
        ({"seed": -1}, "seed"),
        ({"extra_body": {"unknown": 1}}, "unknown"),
        ({"extra_body": {"baichuan": {"lora_rank": 0}}}, "baichuan.lora_rank"),
        ({"extra_body": {"baichuan": {"lora_rnk": 1}}}, "baichuan.lora_rnk"),
        ({"extra_body": {"baichuan": {"epochs": 1}}}, "baichuan.epochs"),
        ({"extra_body": {"baichuan": {"quantization": "nf4"}}}, "baichuan.quantization"),
        ({"extra_body": {"baichuan": {"quantization": "int2"}}}, "baichuan.quantization"),
        ({"extra_body": {"baichuan": {"scheduler": "constant", "warmup_ratio": 0.1}}}, "baichuan"),
    ],
)
def test_an_unsupported_parameter_is_a_400_that_names_it(
    refusing_client: openai.OpenAI, changes: dict[str, Any], param: str
) -> None:
    client = refusing_client
    file = client.files.create(file=lines(EXAMPLES), purpose="fine-tune").id
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.create(**{"model": "base", "training_file": file, **changes})
    assert caught.value.param == param
    assert caught.value.message
    assert list(client.fine_tuning.jobs.list()) == []


@pytest.mark.parametrize("integrations", [None, []])
def test_neutral_integrations(client: openai.OpenAI, training_file: str, integrations: Any) -> None:
    job = client.fine_tuning.jobs.create(model="base", training_file=training_file, integrations=integrations)
    assert job.status == "queued"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "quantize"}, "cannot be set here; remove it"),
        ({"validation_file": "file-" + "0" * 26}, "cannot be set here; use validation_file instead"),
        ({"epochs": 1}, "cannot be set here; use method.supervised.hyperparameters.n_epochs instead"),
    ],
)
def test_fields_that_the_extension_cannot_set(
    refusing_client: openai.OpenAI, fields: dict[str, Any], message: str
) -> None:
    client = refusing_client
    file = client.files.create(file=lines(EXAMPLES), purpose="fine-tune").id
    with pytest.raises(openai.BadRequestError, match=message):
        client.fine_tuning.jobs.create(model="base", training_file=file, extra_body={"baichuan": fields})


@pytest.mark.parametrize("key", ["", "a" * 65])
def test_a_metadata_key_that_cannot_be_stored(refusing_client: openai.OpenAI, key: str) -> None:
    client = refusing_client
    file = client.files.create(file=lines(EXAMPLES), purpose="fine-tune").id
    with pytest.raises(openai.BadRequestError, match=f"the key '{key}' is not valid") as caught:
        client.fine_tuning.jobs.create(model="base", training_file=file, metadata={key: "x"})
    assert caught.value.param == "metadata"


def test_a_file_with_errors_is_refused_with_its_line(client: openai.OpenAI) -> None:
    bad = client.files.create(file=b'{"messages": 1}', purpose="fine-tune")
    with pytest.raises(openai.BadRequestError, match="line 1: 'messages' must be") as caught:
        client.fine_tuning.jobs.create(model="base", training_file=bad.id)
    assert caught.value.param == "training_file"


def test_a_dry_run_creates_nothing(client: openai.OpenAI, api: Api, training_file: str) -> None:
    api.submit()
    api.submit(priority=-1)
    extra = {"baichuan": {"dry_run": True}}
    job: Any = client.fine_tuning.jobs.create(model="base", training_file=training_file, suffix="x", extra_body=extra)
    assert (job.id, job.status) == ("dry-run", "validating_files")
    found = job.baichuan
    assert (found["object"], found["queue_position"]) == ("job.dry_run", 2)
    assert found["requirements"]["devices"] == 1
    assert found["requirements"]["exclusive"]
    assert list(client.fine_tuning.jobs.list()) == []
    spec = {"kind": "quantize", "model": "base", "method": "nf4"}
    ours = api.client.post("/v1/jobs?dry_run=true", json=spec)
    assert ours.status_code == 200, ours.text
    assert ours.json()["queue_position"] == 2
    refused = api.client.post("/v1/jobs?dry_run=true", json={**spec, "model": "nobody"})
    assert refused.status_code == 422
    assert len(api.client.get("/v1/jobs").json()["data"]) == 2


def test_quantization_chooses_the_quantized_model(client: openai.OpenAI, api: Api, training_file: str) -> None:
    made = api.submit(output_model="base-nf4", method="nf4")["id"]
    api.finish(made, api.start(made), {"model/config.json": b"{}"}, details={"bytes": 1, "quantization": "nf4"})
    extra = {"baichuan": {"quantization": "nf4"}}
    job = client.fine_tuning.jobs.create(model="base", training_file=training_file, extra_body=extra)
    assert job.model == "base"
    assert api.client.get(f"/v1/jobs/{job.id}").json()["source_model"] == "base-nf4"


def test_an_idempotency_key_makes_one_job(client: openai.OpenAI, training_file: str) -> None:
    headers = {"Idempotency-Key": "once"}
    one, two = (
        client.fine_tuning.jobs.create(model="base", training_file=training_file, suffix="x", extra_headers=headers)
        for _ in range(2)
    )
    assert one.id == two.id
    with pytest.raises(openai.ConflictError):
        client.fine_tuning.jobs.create(model="base", training_file=training_file, extra_headers=headers)


def test_retries_work_after_deletions(client: openai.OpenAI, api: Api, training_file: str) -> None:
    job = client.fine_tuning.jobs.create(model="base", training_file=training_file)
    client.fine_tuning.jobs.cancel(job.id)
    assert api.client.delete(f"/v1/jobs/{job.id}").status_code == 200
    assert list(client.fine_tuning.jobs.list()) == []
