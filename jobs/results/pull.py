"""Result of a pull job."""

from typing import Literal

from pydantic import Field

from jobs.results.fields import Result


class PullResult(Result):
    """Origin and size of a downloaded model."""

    kind: Literal["pull"] = "pull"
    endpoint: str = Field(description="Address of the hub")
    repository: str
    revision: str = Field(description="The branch, tag or commit that was asked for")
    commit: str = Field(description="The commit that it was at that time")
    files: int = Field(description="Files of the model")
    total_bytes: int = Field(description="Their size")
    received_bytes: int = Field(description="Bytes that the last attempt received; earlier ones left it the others")
    skipped: int = Field(description="Files of the repository that were not downloaded")
    skipped_files: list[str] = Field(description="Names of the first 200 of them; code is never downloaded")
