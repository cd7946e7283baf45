"""A typed client for the REST API, sync and async; it needs neither torch nor the service's packages."""

from baichuan_client.aio.client import AsyncClient
from baichuan_client.aio.jobs import AsyncJob
from baichuan_client.client import Client
from baichuan_client.errors import (
    ApiError,
    ClientError,
    ConfigurationError,
    DownloadError,
    InvalidInputError,
    InvalidResponseError,
    JobCancelledError,
    JobError,
    JobFailedError,
    UnreachableError,
)
from baichuan_client.jobs import Job
from baichuan_client.schemas import Artifact, Event, File, Model

__all__ = [
    "ApiError",
    "Artifact",
    "AsyncClient",
    "AsyncJob",
    "Client",
    "ClientError",
    "ConfigurationError",
    "DownloadError",
    "Event",
    "File",
    "InvalidInputError",
    "InvalidResponseError",
    "Job",
    "JobCancelledError",
    "JobError",
    "JobFailedError",
    "Model",
    "UnreachableError",
]
