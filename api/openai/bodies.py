"""Base class for request bodies of OpenAI's API; an unknown or unsupported parameter raises an error that names it."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from jobs.inputs import Check, make_neutral_check


class RequestBody(BaseModel):
    """A request body that rejects unknown parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def apply_check(check: Check) -> BeforeValidator:
    """Return a validator that applies a check to a parameter, but accepts null for one that is not set."""

    def validate(value: Any) -> Any:
        if value is not None and (fault := check(value)):
            raise ValueError(fault)
        return value

    return BeforeValidator(validate)


Unsupported = Annotated[object, apply_check(make_neutral_check())]
