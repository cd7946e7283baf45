"""The health and readiness of the service."""

from typing import Literal

from pydantic import BaseModel


class Health(BaseModel):
    """The response of a process that is running."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """The response of a process that can serve requests; jobs are accepted even while Redis is unreachable."""

    status: Literal["ready"] = "ready"
    database: Literal["ok"] = "ok"
    redis: Literal["ok", "unreachable"]
