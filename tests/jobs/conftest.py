"""A prepared database of each kind, and steps that most tests start with."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from footprint import Precision
from jobs.artifacts import ArtifactStore, DirectoryStore, ObjectStore
from jobs.bootstrap import prepare_deployment
from jobs.database import Database
from jobs.records import JobDetails, ModelRecord
from jobs.repository import models
from jobs.service import keys
from jobs.service.submission import Submission, SubmittedJob, submit
from jobs.settings import Settings
from jobs.specs import SPEC_ADAPTER

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
    """Settings of a separate deployment, on each database, without delays between attempts."""
    url = request.getfixturevalue("postgresql_url") if request.param == "postgresql" else ""
    return Settings(home=tmp_path / "home", database_url=url, backoff_seconds=0)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """The migrated database of that deployment."""
    prepare_deployment(settings)
    opened = Database(settings.effective_database_url)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A server that speaks S3, with the bucket "results"."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    import boto3  # noqa: PLC0415 - comes with moto, and only this fixture needs it

    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket="results")
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.integration)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    """An empty store of each kind."""
    if request.param == "directory":
        return DirectoryStore(tmp_path / "store")
    made: ArtifactStore = request.getfixturevalue("s3_store")
    return made


@pytest.fixture
def s3_store(s3_endpoint: str, tmp_path: Path) -> ObjectStore:
    """An empty object store."""
    backend = S3Store(
        "results",
        prefix=tmp_path.name,
        endpoint=s3_endpoint,
        region="us-east-1",
        access_key_id="test",
        secret_access_key="test",
        client_options={"allow_http": True},
    )
    return ObjectStore(backend, tmp_path / "cache")


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
        """Return a submission, by default of a quantize job."""
        spec = SPEC_ADAPTER.validate_python({"kind": "quantize", "model": "base", **fields})
        return Submission(self.project_id, spec, key)

    def submit(self, **fields: Any) -> JobDetails:
        """Submit one job that must be accepted."""
        with self.database.writing() as connection:
            answer = submit(connection, [self.submission(**fields)])[0]
        assert isinstance(answer, SubmittedJob), answer
        return answer.job


@pytest.fixture
def deployment(database: Database, settings: Settings) -> Deployment:
    """See `Deployment`."""
    return Deployment(database, settings)
