"""Paginated lists."""

from collections.abc import Sequence
from typing import Generic, Literal, Self, TypeVar

from pydantic import BaseModel


class IdentifiedObject(BaseModel):
    """An object that can be an item of a list."""

    id: str


Item = TypeVar("Item", bound=IdentifiedObject)


class Page(BaseModel, Generic[Item]):
    """One page of a list."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool
    first_id: str | None
    last_id: str | None

    @classmethod
    def from_items(cls, items: Sequence[Item], limit: int) -> Self:
        """Return a page of the first `limit` items; an additional item means that there are more."""
        shown = list(items[:limit])
        ids = [item.id for item in shown]
        return cls(
            data=shown,
            has_more=len(items) > limit,
            first_id=ids[0] if ids else None,
            last_id=ids[-1] if ids else None,
        )
