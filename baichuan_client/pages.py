"""Reads the API's paginated lists."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from baichuan_client.call import Call, Params

T = TypeVar("T")
PAGE_SIZE = 100


class Page(BaseModel):
    """One page of a list."""

    data: list[Any]
    has_more: bool
    last_id: str | None


class Pages(Generic[T]):
    """The requests for the successive pages of a list."""

    def __init__(self, path: str, read: Callable[[Any], T], params: Params | None = None, limit: int | None = None):
        """Prepare the requests.

        Args:
            path: Path of the list.
            read: Converts an item from JSON.
            params: Filters for the items.
            limit: Maximum number of items to return; None returns all.
        """
        self._path = path
        self._read = read
        self._params = params or {}
        self._left = limit
        self._after: str | None = None
        self._is_complete = limit == 0

    def next_call(self) -> Call[Page] | None:
        """Return the request for the next page; None after the last one."""
        if self._is_complete:
            return None
        size = PAGE_SIZE if self._left is None else min(PAGE_SIZE, self._left)
        params = {**self._params, "limit": size}
        if self._after is not None:
            params["after"] = self._after
        return Call("GET", self._path, Page.model_validate, params)

    def read(self, page: Page) -> list[T]:
        """Return the items of the page that was just requested, and note where the next page begins."""
        if self._left is not None:
            self._left -= len(page.data)
        self._after = page.last_id
        self._is_complete = not page.has_more or self._left == 0
        return [self._read(item) for item in page.data]
