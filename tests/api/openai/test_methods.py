"""docs/openai.md has a correct row for each method of the client's resources."""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.api.conftest import ADMIN_KEY, Api

DOCUMENT = Path(__file__).parents[3] / "docs" / "openai.md"
RESOURCES = ("files", "models", "fine_tuning", "batches", "chat", "completions", "uploads", "webhooks")
VIEWS = ("with_raw_response", "with_streaming_response")
# Arguments of the methods that return 404; others have an id or no argument.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "fine_tuning.checkpoints.permissions.create": {"fine_tuned_model_checkpoint": "x", "project_ids": ["y"]},
    "fine_tuning.checkpoints.permissions.delete": {"permission_id": "x", "fine_tuned_model_checkpoint": "y"},
    "fine_tuning.alpha.graders.run": {"grader": {"type": "string_check"}, "model_sample": "x"},
    "fine_tuning.alpha.graders.validate": {"grader": {"type": "string_check"}},
    "webhooks.create": {"event_types": ["batch.completed"], "name": "x", "url": "https://x.example"},
    "webhooks.test": {"webhook_endpoint_id": "x", "event_type": "batch.completed"},
}


def methods(resource: Any, name: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Return all public methods of a resource and of its subresources."""
    for attribute in sorted(vars_of(type(resource))):
        if attribute.startswith("_") or attribute in VIEWS:
            continue
        found = inspect.getattr_static(type(resource), attribute)
        path = f"{name}.{attribute}"
        if inspect.isfunction(found):
            yield path, getattr(resource, attribute)
        elif not isinstance(found, type):
            yield from methods(getattr(resource, attribute), path)


def vars_of(kind: type) -> set[str]:
    """Return the names defined by a class and its bases in the client's resources."""
    return {name for each in kind.__mro__ if ".resources." in each.__module__ for name in vars(each)}


def rows() -> dict[str, str]:
    """Answers in the table, by method."""
    found = re.findall(r"^\| `([a-z_.]+)` \| (.+) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(found) == len(dict(found))
    return dict(found)


def all_methods(client: openai.OpenAI) -> dict[str, Callable[..., Any]]:
    return {path: call for name in RESOURCES for path, call in methods(getattr(client, name), name)}


def test_the_table_has_exactly_the_methods_of_the_client() -> None:
    with openai.OpenAI(base_url="http://127.0.0.1:1", api_key="x") as client:
        assert sorted(rows()) == sorted(all_methods(client))


@pytest.mark.filterwarnings("ignore:Retrieve is deprecated")
def test_an_unknown_address_is_a_problem_in_both_formats(shared_api: Api) -> None:
    with openai.OpenAI(base_url=f"{shared_api.url}/v1", api_key=ADMIN_KEY, max_retries=0) as client:
        calls = all_methods(client)
        missing = [path for path, answer in rows().items() if answer.startswith("404")]
        for path in missing:
            with pytest.raises(openai.NotFoundError) as caught:
                call(calls[path], path)
            assert (caught.value.code, caught.value.type) == ("unknown_address", "not_found_error"), path
            assert isinstance(caught.value.body, dict)
            problem = caught.value.response.json()
            assert caught.value.response.headers["Content-Type"] == "application/problem+json"
            assert problem["status"] == 404
            assert problem["error"]["message"] == problem["detail"]
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="base", input="x")


def call(method: Callable[..., Any], path: str) -> None:
    """Call a method with the arguments it requires, and start reading its result."""
    if path in ARGUMENTS:
        method(**ARGUMENTS[path])
        return
    required = [
        name
        for name, parameter in inspect.signature(method).parameters.items()
        if parameter.default is inspect.Parameter.empty
    ]
    method(**dict.fromkeys(required, "x"))
