"""The base class for the job objects of the sync and async clients."""

from typing import Any, Self

from baichuan_client.errors import DownloadError, JobCancelledError, JobFailedError
from baichuan_client.schemas import Artifact, JobData
from jobs.state import JobState


class JobView(JobData):
    """A job as of the last response; methods that return the job also update it."""

    def _update(self, content: Any) -> Self:
        """Update the fields from a newer response and return the job."""
        for name, value in JobData.model_validate(content):
            setattr(self, name, value)
        return self

    def _raise_unless_succeeded(self) -> None:
        if self.state == JobState.FAILED:
            raise JobFailedError(self)
        if self.state == JobState.CANCELLED:
            raise JobCancelledError(self)

    def _find_artifact(self, name: str, artifacts: list[Artifact]) -> Artifact:
        """Return the artifact with this path.

        Raises:
            DownloadError: There is no such artifact.
        """
        for artifact in artifacts:
            if artifact.path == name:
                return artifact
        known = ", ".join(artifact.path for artifact in artifacts) or "none"
        raise DownloadError(f"job {self.id} has no artifact {name!r}; it has {known}")
