"""Query parameters of lists in OpenAI's API: `after`, `limit`, and `metadata[key]=value` as a filter."""

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.schemas.requests import Cursor
from api.validation import to_field_errors
from jobs.errors import InvalidRequestError

METADATA_PARAMETER_PATTERN = re.compile(r"metadata\[(.*)\]", re.DOTALL)
LIST_PARAMETERS: dict[str, Any] = {
    "parameters": [
        {"name": "after", "in": "query", "schema": {"type": "string"}, "description": "The id of the last item seen"},
        {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}},
    ]
}
METADATA_PARAMETERS: dict[str, Any] = {
    "parameters": [
        *LIST_PARAMETERS["parameters"],
        {
            "name": "metadata",
            "in": "query",
            "style": "deepObject",
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
            "description": "Only jobs with these metadata values",
        },
    ]
}
ORDERED_PARAMETERS: dict[str, Any] = {
    "parameters": [
        *LIST_PARAMETERS["parameters"],
        {"name": "order", "in": "query", "schema": {"enum": ["asc", "desc"], "default": "asc"}},
    ]
}


class ListQuery(BaseModel):
    """The part of a list to return."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: Cursor | None = None
    limit: int = Field(20, ge=1, le=100)
    metadata: Mapping[str, str] = Field(default_factory=dict)


class OrderedQuery(ListQuery):
    """The part of a list to return, and its order."""

    order: Literal["asc", "desc"] = "asc"


QueryT = TypeVar("QueryT", bound=ListQuery)


def read_query(request: Request, *, by_metadata: bool = False) -> ListQuery:
    """Parse the query parameters of a list request; see `read_query_as`."""
    return read_query_as(ListQuery, request, by_metadata=by_metadata)


def read_query_as(kind: type[QueryT], request: Request, *, by_metadata: bool = False) -> QueryT:
    """Parse the query parameters of a list request into `kind`, a `ListQuery` that may add fields.

    Raises:
        InvalidRequestError: a field is unknown or has a wrong value.
    """
    fields: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    for name, value in request.query_params.items():
        found = METADATA_PARAMETER_PATTERN.fullmatch(name) if by_metadata else None
        if found is None:
            fields[name] = value
        else:
            metadata[found[1]] = value
    if "metadata" in fields:
        message = "write metadata[key]=value; filtering for jobs without metadata is not supported"
        raise InvalidRequestError(message, param="metadata")
    try:
        return kind.model_validate({**fields, "metadata": metadata})
    except ValidationError as error:
        first = to_field_errors(error.errors())[0]
        raise InvalidRequestError(first.message, param=first.param) from None
