"""Pull jobs against a local hub: through a whole service, and what happens if an attempt ends early."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import HubServer, Repository, hub_server
from tests.workers.deployment import Deployment, RedisServer, deployment, wait_for
from tests.workers.test_control import runner_of

NAME = "baichuan-inc/Tiny"
WEIGHTS = "model.safetensors"
TOKEN = "hf_secret"
WORKER = "puller"


@pytest.fixture(scope="module")
def shared_hub(tiny_checkpoint: Path) -> Iterator[HubServer]:
    with hub_server() as running:
        running.repositories[NAME] = Repository.of(tiny_checkpoint, **{"modeling_baichuan.py": b"raise SystemExit"})
        yield running


@pytest.fixture
def hub(shared_hub: HubServer) -> Iterator[HubServer]:
    """The hub of the worker, as if it had just started."""
    shared_hub.requests.clear()
    yield shared_hub
    shared_hub.status = None
    shared_hub.holds.clear()
    shared_hub.released.clear()
    shared_hub.repositories[NAME].token = None


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, shared_hub: HubServer
) -> Iterator[Deployment]:
    """A deployment whose worker has access to the hub."""
    with (
        pytest.MonkeyPatch.context() as environment,
        deployment(tmp_path_factory.mktemp("pull"), redis_server, backoff_seconds=0) as made,
    ):
        environment.setenv("HF_ENDPOINT", shared_hub.url)
        environment.setenv("HF_TOKEN", TOKEN)
        made.start_dispatcher()
        made.start_worker(WORKER, kinds="pull,generate")
        yield made


@pytest.mark.slow
def test_a_pulled_model_can_be_used_at_once(service: Deployment, hub: HubServer, tiny_checkpoint: Path) -> None:
    hub.repositories[NAME].token, hub.repositories[NAME].is_gated = TOKEN, True
    job_id = service.submit(kind="pull", repository=NAME, output_model=NAME)
    job = service.wait(job_id)
    files = [path for path in tiny_checkpoint.iterdir() if path.is_file()]
    total = sum(path.stat().st_size for path in files)
    assert job.result == {
        "kind": "pull",
        "endpoint": hub.url,
        "repository": NAME,
        "revision": "main",
        "commit": hub.repositories[NAME].commit,
        "files": len(files),
        "total_bytes": total,
        "received_bytes": total,
        "skipped": 1,
        "skipped_files": ["modeling_baichuan.py"],
    }
    assert job.source_model == NAME
    assert set(service.artifacts(job_id)) == {f"model/{path.name}" for path in files}
    model = service.model(NAME)
    assert (model.kind, model.base, model.details["vocab_size"]) == ("checkpoint", None, 1024)
    used = service.wait(service.submit(kind="generate", model=NAME, prompts=["hello"], max_new_tokens=2))
    assert used.result is not None
    assert used.result["completions"] == 1


def test_a_killed_attempt_is_continued_in_the_middle_of_a_file(
    service: Deployment, hub: HubServer, tiny_checkpoint: Path
) -> None:
    size = (tiny_checkpoint / WEIGHTS).stat().st_size
    hub.holds[WEIGHTS] = size // 2

    def has_begun() -> bool:
        parts = service.home.glob(f"artifacts/jobs/{job_id}/*/checkpoints/download/*.part")
        return bool(hub.ranges(WEIGHTS)) and any(part.stat().st_size for part in parts)

    job_id = service.submit(kind="pull", repository=NAME)
    wait_for("the beginning of the weights", has_begun)
    group = runner_of(service, WORKER, job_id)
    environment = Path(f"/proc/{group}/environ").read_bytes()
    assert hub.url.encode() in environment
    assert TOKEN.encode() not in environment
    hub.holds.clear()
    os.killpg(group, signal.SIGKILL)
    job = service.wait(job_id)
    assert [attempt.state for attempt in service.attempts(job_id)] == ["failed", "succeeded"]
    first, second = hub.ranges(WEIGHTS)
    assert first is None
    assert second is not None
    begun = int(second.removeprefix("bytes=").removesuffix("-"))
    assert 0 < begun <= size // 2
    assert job.result is not None
    assert job.result["received_bytes"] == size - begun
    assert "modeling_baichuan.py" not in hub.requested_files()


def test_what_the_user_must_change_is_not_tried_again(service: Deployment, hub: HubServer) -> None:
    for spec, message in (
        ({"repository": "baichuan-inc/None"}, "HF_TOKEN has no access to it"),
        ({"repository": NAME, "revision": "v9"}, "has no revision 'v9'"),
    ):
        job = service.wait(service.submit(kind="pull", **spec), "failed")
        assert job.error is not None
        assert job.error["code"] == "hub"
        assert message in job.error["message"]
        assert job.attempt_count == 1


def test_a_hub_that_does_not_answer_is_tried_again(service: Deployment, hub: HubServer) -> None:
    hub.status = 503
    job = service.wait(service.submit(kind="pull", repository=NAME, max_attempts=2), "failed")
    assert job.error is not None
    assert (job.error["code"], job.attempt_count) == ("hub_unreachable", 2)
