"""The format of all error responses."""

from pydantic import BaseModel


class FieldProblem(BaseModel):
    """One field that was rejected."""

    param: str | None
    message: str


class OpenAIError(BaseModel):
    """An error in the format of OpenAI's API."""

    message: str
    type: str
    param: str | None
    code: str


class Problem(BaseModel):
    """Any error, as `application/problem+json` (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    error: OpenAIError
    errors: list[FieldProblem] | None = None
