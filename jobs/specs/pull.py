"""Spec of a pull job, which downloads a model from a Hugging Face hub."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from jobs.specs.job_spec import ModelOutputSpec

# Hubs allow up to 96 characters, but neither ".." nor "--".
REPOSITORY_PATTERN = r"^[A-Za-z0-9_]+([.-][A-Za-z0-9_]+)*/[A-Za-z0-9_]+([.-][A-Za-z0-9_]+)*$"
REVISION_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_+-]*([./][A-Za-z0-9_+-]+)*$"


class PullSpec(ModelOutputSpec):
    """A job that downloads a repository: weights, configuration, tokenizer and license, but none of its code."""

    uses_hub: ClassVar[bool] = True

    kind: Literal["pull"]
    repository: Annotated[str, StringConstraints(pattern=REPOSITORY_PATTERN, max_length=96)] = Field(
        description="Name of the repository with its owner, as in baichuan-inc/Baichuan2-7B-Chat; the worker's"
        " HF_ENDPOINT selects the hub"
    )
    revision: Annotated[str, StringConstraints(pattern=REVISION_PATTERN, max_length=128)] = Field(
        "main", description="A branch, a tag or a commit"
    )
    max_attempts: int = Field(
        5,
        ge=1,
        le=10,
        description="Maximum number of attempts if workers are lost or the hub does not respond",
    )

    @property
    def source(self) -> str:
        """See `JobSpec.source`."""
        return self.repository
