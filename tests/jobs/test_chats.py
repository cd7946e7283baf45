"""The rows of chats, and the jobs that serve models, on both databases."""

from dataclasses import replace
from typing import Any

from jobs.database import Database
from jobs.records import ChatRecord, ModelRecord
from jobs.repository import models
from jobs.service import chats, history
from jobs.service.chats import EndedChat, NewChat
from jobs.service.submission import Submission
from jobs.specs import ServeSpec
from jobs.state import Event
from tests.jobs.conftest import Deployment
from tests.jobs.pool import add_worker, hold, start_on

SERVE = ServeSpec(kind="serve", model="base")
ANSWER: dict[str, Any] = {"messages": [], "metadata": None, "answer": {}}


def new_chat(deployment: Deployment, number: int) -> NewChat:
    return NewChat(f"chatcmpl-{number}", deployment.project_id, "key", "ann", "base", "/v1", "job-1", "att-1")


def stored_ids(database: Database, deployment: Deployment) -> list[str]:
    with database.reading() as connection:
        found = chats.list_stored(connection, deployment.project_id, after=None, limit=10, oldest_first=True)
    return [chat.id for chat in found]


def test_rows_from_begin_to_end(deployment: Deployment) -> None:
    database = deployment.database
    first, second = new_chat(deployment, 1), new_chat(deployment, 2)
    ended = EndedChat(first, "succeeded", 900, "stop", 3, 4, first_token_ms=5, stored=ANSWER)
    with database.writing() as connection:
        chats.begin(connection, [first])
        chats.renew(connection, [first.id, second.id])
        chats.end(connection, [ended, replace(ended, chat=second, stored=None)])  # the second was never inserted
        chats.begin(connection, [second])  # late, after its end
    with database.reading() as connection:
        found = chats.get_stored(connection, deployment.project_id, first.id)
        assert isinstance(found, ChatRecord)
        assert (found.state, found.expires_at, found.prompt_tokens, found.first_token_ms) == ("succeeded", None, 3, 5)
        assert found.stored == ANSWER
        assert sum(day.tokens for day in history.list_usage(connection, deployment.project_id, 1)) == 14
    assert stored_ids(database, deployment) == [first.id]
    with database.writing() as connection:
        assert chats.fail_abandoned(connection) == 0
        chats.set_metadata(connection, deployment.project_id, first.id, {"a": "b"})
        chats.delete_stored(connection, deployment.project_id, first.id)
    assert stored_ids(database, deployment) == []


def test_a_fine_tuned_model_is_its_base_with_an_adapter(deployment: Deployment) -> None:
    tuned = ModelRecord(
        deployment.project_id, "base/tuned", "adapter", "ready", "base", None, None, "models/tuned", {}, 1
    )
    both = ServeSpec(kind="serve", model="base", adapter="base/tuned")
    with deployment.database.writing() as connection:
        models.add(connection, tuned)
        places = [
            chats.get_serving_status(connection, deployment.project_id, spec)
            for spec in (SERVE, both, ServeSpec(kind="serve", model="base/tuned"))
        ]
        job = chats.ensure_serve_job(connection, Submission(deployment.project_id, both), places[1].model_key)
    assert places[0].model_key != places[1].model_key == places[2].model_key
    assert job.requirement["model"] == places[1].model_key


def test_one_job_serves_a_model(deployment: Deployment) -> None:
    def ensure() -> str:
        with deployment.database.writing() as connection:
            key = chats.get_serving_status(connection, deployment.project_id, SERVE).model_key
            return chats.ensure_serve_job(connection, Submission(deployment.project_id, SERVE), key).id

    add_worker(deployment.database, "w1")
    first = ensure()
    assert ensure() == first
    with deployment.database.writing() as connection:
        attempt = start_on(connection, first, "w1", deployment.settings)
    assert ensure() == first
    with deployment.database.writing() as connection:
        hold(connection, attempt, "w1", deployment.settings).end(
            Event.FAIL, {"code": "checkpoint", "message": "broken"}
        )
        assert not chats.is_attempt_open(connection, attempt)
    assert ensure() != first
