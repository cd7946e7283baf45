"""Drives an engine to the end of its requests, without `OpenBatch`'s thread."""

from collections.abc import Iterator, Sequence

from baichuan_core.generation.engines.capacity import compute_capacity
from baichuan_core.generation.engines.contract import EncodedRequest, Engine
from baichuan_core.generation.engines.outputs import Completion, StepOutputs
from baichuan_core.generation.options import GenerationOptions


def run(engine: Engine, requests: Sequence[EncodedRequest], *, stream: bool = False) -> Iterator[StepOutputs]:
    """Add all requests at once and step until the engine is idle; raise the error of one that fails."""
    engine.prepare(compute_capacity(requests, GenerationOptions()))
    for request in requests:
        engine.add_request(request, stream=stream)
    while not engine.is_idle:
        step = engine.step()
        for output in step.outputs:
            if output.error:
                raise output.error
        yield step


def complete(engine: Engine, requests: Sequence[EncodedRequest]) -> list[Completion]:
    """Return the completions in the order of the requests."""
    found = {(one.index, one.sample): one for step in run(engine, requests) for one in step.completions}
    return [found[one.index, one.sample] for one in requests]
