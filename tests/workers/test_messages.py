"""Workers and runners speak JSON, and runners have none of the service's variables."""

from dataclasses import replace
from pathlib import Path

from jobs.artifacts import StoredFile
from jobs.results import ConvertResult
from jobs.service.attempts import ProducedModel
from tests.workers.test_preparation import BASE, claim_of
from workers.environment import build_device_variables, build_runner_environment, get_hub_token, select_store_variables
from workers.failures import Failure
from workers.handlers.contract import HandlerOutcome
from workers.messages import (
    Assignment,
    Failed,
    Finished,
    Progressed,
    Storage,
    decode_assignment,
    decode_message,
    encode_assignment,
    encode_message,
)


def test_an_assignment_arrives_as_it_was_sent() -> None:
    storage = Storage("s3://bucket/prefix", Path("/cache"), 10, {"AWS_ACCESS_KEY_ID": "k"}, [Path("/models")], 1)
    sent = Assignment(claim_of({"model": BASE}), storage, 2)
    line = encode_assignment(sent)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    received = decode_assignment(line)
    assert received == sent
    assert type(received.claim.spec) is type(sent.claim.spec)
    with_token = decode_assignment(encode_assignment(replace(sent, hub_token="hf_secret")))
    assert with_token.hub_token == "hf_secret"
    assert "hf_secret" not in repr(with_token)


def test_messages_arrive_as_they_were_sent() -> None:
    result = ConvertResult(target="safetensors", tensors=3, bytes_before=9, bytes_after=8)
    model = ProducedModel("model", "checkpoint", {"bytes": 8})
    for sent in (
        Progressed(0.5, "training", {"loss": 1.5, "speed": None}),
        Failed(Failure("code", "first line\nsecond line \N{GRINNING FACE}", permanent=True)),
        Finished(HandlerOutcome(result, model), [StoredFile("a", 1, "0" * 64)]),
    ):
        line = encode_message(sent)
        assert line.count(b"\n") == 1
        assert decode_message(line) == sent


def test_a_runner_gets_what_computing_needs_and_no_secret() -> None:
    environment = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "OMP_NUM_THREADS": "2",
        "HF_HOME": "/hub",
        "HF_TOKEN": "secret",
        "DATABASE_URL": "postgresql://user:password@host/db",
        "REDIS_URL": "redis://:password@host",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "BAICHUAN_API_KEY": "secret",
        "BAICHUAN_HOME": "/state",
    }
    assert set(build_runner_environment(environment)) == {"PATH", "LC_ALL", "OMP_NUM_THREADS", "HF_HOME"}
    more = build_runner_environment(environment | {"WANDB_API_KEY": "k", "MLFLOW_TRACKING_URI": "u"}, ("WANDB_*",))
    assert "WANDB_API_KEY" in more
    assert "MLFLOW_TRACKING_URI" not in more
    assert (get_hub_token(environment), get_hub_token({"HF_TOKEN": " "})) == ("secret", None)
    assert select_store_variables(environment) == {"AWS_SECRET_ACCESS_KEY": "secret"}


def test_devices_are_shown_by_uuid_and_none_hides_all() -> None:
    assert build_device_variables(["GPU-a", "GPU-b"]) == {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}
    assert build_device_variables([]) == {"CUDA_VISIBLE_DEVICES": ""}
