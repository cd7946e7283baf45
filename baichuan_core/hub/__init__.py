"""Downloads models from a Hugging Face hub."""

from .client import Hub
from .pull import PullReport, pull

__all__ = ["Hub", "PullReport", "pull"]
