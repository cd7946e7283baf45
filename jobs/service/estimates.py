"""Estimates: what a job would take, told before it is submitted."""

from sqlalchemy import Connection

from footprint import Footprint
from jobs.checkpoints import GGUF
from jobs.errors import InvalidRequestError, UnknownModelError
from jobs.memory import KnownModel, footprint_of
from jobs.repository import models
from jobs.specs import AnySpec


def estimate(connection: Connection, project_id: str, spec: AnySpec) -> Footprint:
    """The memory that a job of this spec would take; an adapter is counted as its base.

    Raises:
        UnknownModelError: there is no such model, or it is still being made.
        InvalidRequestError: its configuration does not tell its sizes.
    """
    named = models.get_many(connection, project_id, [spec.model]).get(spec.model)
    if named is not None and named.kind == "adapter" and named.base is not None:
        named = models.get_many(connection, project_id, [named.base]).get(named.base)
    if named is None or named.state != "ready":
        raise UnknownModelError(
            f"there is no model {spec.model!r} that is ready; `GET /v1/models` lists yours", param="model"
        )
    if named.kind == GGUF:
        size = named.details["bytes"]
        message = f"{named.id!r} is a GGUF file, which llama.cpp maps: all that is known is its size, {size} bytes"
        raise InvalidRequestError(message, param="model")
    known = KnownModel.from_details(named.details)
    if known is None:
        message = f"the sizes of model {named.id!r} are not known; register it again, with the published config.json"
        raise InvalidRequestError(message, param="model")
    return footprint_of(spec, known)
