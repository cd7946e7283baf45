"""Result of a convert job."""

from typing import Literal

from pydantic import Field

from jobs.results.fields import Result


class ConvertResult(Result):
    """The size of a checkpoint before and after its conversion."""

    kind: Literal["convert"] = "convert"
    target: str = Field(description="The requested format")
    tensors: int = Field(description="Number of tensors that were written")
    bytes_before: int = Field(description="Total size in bytes of the weight files that were read")
    bytes_after: int = Field(description="Total size in bytes of the tensors that were written")
