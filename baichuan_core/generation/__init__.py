"""Text generation over many requests."""

from baichuan_core.generation.engine import Completion
from baichuan_core.generation.generate import generate
from baichuan_core.generation.options import GenerationOptions, GenerationReport
from baichuan_core.generation.requests import GenerationRequest, read_requests

__all__ = [
    "Completion",
    "GenerationOptions",
    "GenerationReport",
    "GenerationRequest",
    "generate",
    "read_requests",
]
