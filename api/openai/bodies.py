"""Base class for request bodies of OpenAI's API; an unknown or unsupported parameter raises an error that names it."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from jobs.specs.fields import NUL_VALIDATOR


class RequestBody(BaseModel):
    """A request body that rejects unknown parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64), NUL_VALIDATOR]
MetadataValue = Annotated[str, StringConstraints(max_length=512), NUL_VALIDATOR]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)]


def _reject_value(value: object) -> None:
    """Reject any value except null."""
    if value is not None:
        raise ValueError("is not supported here; leave it out")


Unsupported = Annotated[object, AfterValidator(_reject_value)]
