"""A prepared database of each kind, and the first steps of most tests."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from footprint import Precision
from jobs.bootstrap import prepare
from jobs.database import Database
from jobs.records import JobDetails, ModelRecord
from jobs.repository import models
from jobs.service import keys
from jobs.service.submission import Submission, Submitted, submit
from jobs.settings import Settings
from jobs.specs import SPEC

# A model of a few megabytes, so that jobs fit everywhere.
DETAILS = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 512,
    "max_position_embeddings": 128,
    "position_embedding": "rope",
    "norm_head": True,
    "precision": asdict(Precision()),
}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """A deployment of its own, on each database, without waits between attempts."""
    url = request.getfixturevalue("postgresql_url") if request.param == "postgresql" else ""
    return Settings(home=tmp_path / "home", database_url=url, backoff_seconds=0)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """The migrated database of that deployment."""
    prepare(settings)
    opened = Database(settings.database)
    yield opened
    opened.close()


class Deployment:
    """A project with a model, for tests that submit jobs."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        with database.writing() as connection:
            key = keys.create(connection, project="team", name="test", role="member", secret=keys.new_secret())
            self.project_id = key.project_id
            models.add(
                connection,
                ModelRecord(
                    key.project_id, "base", "checkpoint", "ready", None, None, "/models/base", None, DETAILS, 1
                ),
            )

    def submission(self, key: str | None = None, **fields: Any) -> Submission:
        """A quantize submission unless the fields say otherwise."""
        spec = SPEC.validate_python({"kind": "quantize", "model": "base", **fields})
        return Submission(self.project_id, spec, key)

    def submit(self, **fields: Any) -> JobDetails:
        """Submit one job that must be accepted."""
        with self.database.writing() as connection:
            answer = submit(connection, [self.submission(**fields)])[0]
        assert isinstance(answer, Submitted), answer
        return answer.job


@pytest.fixture
def deployment(database: Database, settings: Settings) -> Deployment:
    """See `Deployment`."""
    return Deployment(database, settings)
