"""Text generation for many requests."""

from baichuan_core.generation.engines.outputs import Completion, TextDelta
from baichuan_core.generation.generate import find_unanswerable_requests, generate
from baichuan_core.generation.generator import TextGenerator
from baichuan_core.generation.options import EngineName, GenerationOptions, GenerationReport
from baichuan_core.generation.request_file import BatchLine, read_batch, read_requests
from baichuan_core.generation.requests import GenerationRequest
from baichuan_core.generation.streams import CompletionStream

__all__ = [
    "BatchLine",
    "Completion",
    "CompletionStream",
    "EngineName",
    "GenerationOptions",
    "GenerationReport",
    "GenerationRequest",
    "TextDelta",
    "TextGenerator",
    "find_unanswerable_requests",
    "generate",
    "read_batch",
    "read_requests",
]
