"""Result of a pull job."""

from typing import Literal

from pydantic import Field

from jobs.results.fields import Result


class PullResult(Result):
    """The origin and size of a downloaded model."""

    kind: Literal["pull"] = "pull"
    endpoint: str = Field(description="Address of the hub")
    repository: str
    revision: str = Field(description="The requested branch, tag or commit")
    commit: str = Field(description="The commit that the revision referred to at that time")
    files: int = Field(description="Number of files in the model")
    total_bytes: int = Field(description="Total size of these files")
    received_bytes: int = Field(
        description="Bytes that the last attempt received; earlier attempts had received the others"
    )
    skipped: int = Field(description="Number of files in the repository that were not downloaded")
    skipped_files: list[str] = Field(description="Names of the first 200 skipped files; code is never downloaded")
