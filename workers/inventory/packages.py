"""Optional Python packages that jobs may require."""

from importlib.util import find_spec

from jobs.specs.published_finetuning import TRACKERS


def find_packages() -> list[str]:
    """Return the optional packages that runners can import, without importing them."""
    return [name for name in TRACKERS if _is_installed(name)]


def _is_installed(name: str) -> bool:
    spec = find_spec(name)
    return spec is not None and spec.origin is not None  # a namespace package (a folder without code) has no origin
