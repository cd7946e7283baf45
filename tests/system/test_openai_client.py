"""The official client trains a tiny model and runs a batch on the result, in real processes."""

import json
from typing import Any

import openai
from openai.types.chat import ChatCompletion

from tests.system.conftest import Service
from tests.workers.deployment import wait_for

FINAL = ("succeeded", "failed", "cancelled", "completed")
EXAMPLES = [
    {"messages": [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": "answer"}]}
    for number in range(8)
]
FAST = {"max_length": 64, "lora_rank": 2, "gradient_checkpointing": False, "dtype": "float32"}


def wait(what: str, retrieve: Any) -> Any:
    """Wait until a job or batch has ended."""
    return wait_for(what, lambda: found if (found := retrieve()).status in FINAL else None, seconds=200)


def lines(items: list[Any]) -> bytes:
    """JSON lines."""
    return "".join(json.dumps(item) + "\n" for item in items).encode()


def test_from_upload_to_the_results_of_a_batch(service: Service) -> None:
    key = service.http.headers["Authorization"].removeprefix("Bearer ")
    with openai.OpenAI(base_url=f"{service.http.base_url}/v1", api_key=key, _strict_response_validation=True) as client:
        training = client.files.create(file=("train.jsonl", lines(EXAMPLES)), purpose="fine-tune")
        assert client.files.wait_for_processing(training.id).status == "processed"
        job = client.fine_tuning.jobs.create(
            model="tiny",
            training_file=training.id,
            suffix="e2e",
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 4}}},
            extra_body={"baichuan": FAST},
        )
        done = wait("the fine-tune", lambda: client.fine_tuning.jobs.retrieve(job.id))
        assert (done.status, done.error) == ("succeeded", None)
        assert done.trained_tokens > 0
        assert done.hyperparameters.learning_rate_multiplier == 1
        events = list(client.fine_tuning.jobs.list_events(job.id))
        assert events[0].message == "The job is succeeded"
        metrics = [event.data for event in events if event.type == "metrics"]
        assert any(isinstance(data, dict) and "train_loss" in data for data in metrics)
        series = {client.files.retrieve(each).filename: each for each in done.result_files}["training/series.jsonl"]
        assert "loss" in client.files.content(series).text

        model = done.fine_tuned_model
        assert client.models.retrieve(model).id == model
        requests = [
            {
                "custom_id": f"request-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 4},
            }
            for number, content in enumerate(["one", "two", "three"])
        ]
        file = client.files.create(file=("batch.jsonl", lines(requests)), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        finished = wait("the batch", lambda: client.batches.retrieve(batch.id))
        assert finished.status == "completed", finished.errors
        assert finished.request_counts.model_dump() == {"total": 3, "completed": 3, "failed": 0}
        assert finished.error_file_id is None
        written = [json.loads(line) for line in client.files.content(finished.output_file_id).text.splitlines()]
        assert [line["custom_id"] for line in written] == ["request-0", "request-1", "request-2"]
        answers = [ChatCompletion.model_validate(line["response"]["body"], strict=True) for line in written]
        assert {answer.model for answer in answers} == {model}
        assert client.files.delete(file.id).deleted
