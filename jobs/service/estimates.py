"""Estimates of the memory that a job would need, made before it is submitted."""

from sqlalchemy import Connection

from footprint import Footprint
from jobs.errors import InvalidRequestError, UnknownModelError
from jobs.models.directories import GGUF_KIND
from jobs.repository import models
from jobs.specs import AnySpec, ModelProperties


def estimate_footprint(connection: Connection, project_id: str, spec: AnySpec) -> Footprint:
    """Return the footprint of a job's most memory-intensive step; an adapter is estimated as its base model.

    Raises:
        UnknownModelError: there is no such model, or it is still being made.
        InvalidRequestError: the model's sizes are unknown, or the job loads no weights.
    """
    named = {field: name for field, name in spec.list_model_references().items() if field != "adapter"}
    known = [_read_model_properties(connection, project_id, field, name) for field, name in named.items()]
    steps = [step for model in known for step in spec.estimate_footprints(model)]
    if not steps:
        message = f"a {spec.kind} job loads no weights, so there is nothing to estimate; submit it without an estimate"
        raise InvalidRequestError(message, param="kind")
    return max(steps, key=lambda step: step.total)


def _read_model_properties(connection: Connection, project_id: str, field: str, name: str) -> ModelProperties:
    model = models.get_many(connection, project_id, [name]).get(name)
    if model is not None and model.kind == "adapter" and model.base is not None:
        model = models.get_many(connection, project_id, [model.base]).get(model.base)
    if model is None or model.state != "ready":
        raise UnknownModelError(f"no ready model named {name!r}; `GET /v1/models` lists your models", param=field)
    if model.kind == GGUF_KIND:
        size = model.details["bytes"]
        message = f"{model.id!r} is a GGUF file, which llama.cpp maps into memory; only its size is known: {size} bytes"
        raise InvalidRequestError(message, param=field)
    known = ModelProperties.from_details(model.details)
    if known is None:
        message = f"the sizes of model {model.id!r} are unknown; register it again with its published config.json"
        raise InvalidRequestError(message, param=field)
    return known
