"""Whether the service works."""

from typing import Literal

from pydantic import BaseModel


class Health(BaseModel):
    """The process lives."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Requests can be served; jobs are accepted while Redis is unreachable."""

    status: Literal["ready"] = "ready"
    database: Literal["ok"] = "ok"
    redis: Literal["ok", "unreachable"]
