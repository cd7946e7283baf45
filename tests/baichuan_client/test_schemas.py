"""The client's schemas have the fields of the API's."""

import typing

import pytest
from pydantic import BaseModel

from api.schemas.jobs import ArtifactObject, EventObject, HolderObject, JobObject, RequirementObject, WaitingObject
from api.schemas.requests import JobSelection
from api.schemas.resources import FileObject, ModelObject
from baichuan_client import schemas
from baichuan_client.filters import EventType, JobFilters
from jobs.results import PerplexityResult


@pytest.mark.parametrize(
    ("ours", "api"),
    [
        (schemas.JobData, JobObject),
        (schemas.Requirement, RequirementObject),
        (schemas.WaitingReason, WaitingObject),
        (schemas.Holder, HolderObject),
        (schemas.Event, EventObject),
        (schemas.Artifact, ArtifactObject),
        (schemas.File, FileObject),
        (schemas.Model, ModelObject),
    ],
)
def test_fields(ours: type[BaseModel], api: type[BaseModel]) -> None:
    assert set(ours.model_fields) == set(api.model_fields)


def test_filters() -> None:
    assert set(JobFilters.__annotations__) == set(JobSelection.model_fields)
    assert set(typing.get_args(EventType)) == {"state", "progress", "log"}


def test_a_newer_service_can_be_used() -> None:
    job = schemas.JobData.model_validate(
        {
            "id": "job-1",
            "kind": "distill",
            "state": "thinking",
            "created_at": 1,
            "progress": {"mood": "good"},
            "result": {"kind": "distill", "x": 1},
            "colour": "red",
        }
    )
    assert (job.is_final, job.progress, job.result) == (False, None, {"kind": "distill", "x": 1})
    assert job.model_dump()["colour"] == "red"


def test_results_are_read_by_kind() -> None:
    perplexity = {"name": "m", "perplexity": 5.5}
    result = {"kind": "evaluate", "window": 512, "windows": 2, "tokens": 1024, "model": perplexity}
    result |= {"compared_with": None, "comparison": None}
    fields = {"id": "job-1", "kind": "evaluate", "state": "succeeded", "created_at": 1, "result": result}
    job = schemas.JobData.model_validate(fields)
    assert isinstance(job.result, PerplexityResult)
    assert job.result.model.perplexity == 5.5
    assert schemas.JobData.model_validate(job.model_dump(mode="json")) == job
