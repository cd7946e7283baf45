"""Text generation over many requests."""

from baichuan_core.generation.engines.outputs import Completion, TextDelta
from baichuan_core.generation.generate import generate
from baichuan_core.generation.generator import TextGenerator
from baichuan_core.generation.options import EngineName, GenerationOptions, GenerationReport
from baichuan_core.generation.request_file import read_requests
from baichuan_core.generation.requests import GenerationRequest
from baichuan_core.generation.streams import CompletionStream

__all__ = [
    "Completion",
    "CompletionStream",
    "EngineName",
    "GenerationOptions",
    "GenerationReport",
    "GenerationRequest",
    "TextDelta",
    "TextGenerator",
    "generate",
    "read_requests",
]
