"""Prevents the import of DeepSpeed in runs that do not use it."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from accelerate.utils import other


@contextmanager
def hide_deepspeed() -> Iterator[None]:
    """Keep accelerate from importing DeepSpeed inside the block.

    If the package is installed, accelerate imports it to unwrap any model, which takes seconds and prints warnings.
    """
    with patch.object(other, "is_deepspeed_available", lambda: False):
        yield
