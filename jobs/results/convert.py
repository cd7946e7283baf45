"""Result of a convert job."""

from typing import Literal

from pydantic import Field

from jobs.results.fields import Result


class ConvertResult(Result):
    """Size of a converted checkpoint."""

    kind: Literal["convert"] = "convert"
    target: str = Field(description="The format that was asked for")
    tensors: int = Field(description="Tensors that were written")
    bytes_before: int = Field(description="Bytes of the weight files that were read")
    bytes_after: int = Field(description="Bytes of the tensors that were written")
