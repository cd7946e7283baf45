"""The completions of one request, as they come."""

from collections.abc import AsyncIterator, Iterator

from baichuan_core.generation.engines.contract import Completion, Step, TextDelta
from baichuan_core.generation.open_batch import Feed


class CompletionStream:
    """Text of a submitted request as it comes: iterate over it in any thread, or with `async for` in any event loop.

    It yields `TextDelta`s, and each of the request's `n` completions as a `Completion` once it is whole. Iterating
    raises the error if one of them fails. One consumer may iterate at a time. Leaving the loop early, or dropping the
    stream, cancels the request.

    Example:
        stream = generator.submit(request)
        for event in stream:                     or `async for event in stream`
            print(event)                         TextDelta, TextDelta, ..., Completion
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def cancel(self) -> None:
        """Stop the request and end the iteration; any thread may call this. Its slots are free in the next step."""
        self._feed.cancel()

    def result(self) -> list[Completion]:
        """Wait for the completions and return them, ordered by sample.

        Raises:
            CheckpointError: The model computes NaN.
            UnsupportedError: A completion does not fit into memory even alone.
        """
        return sorted((one for one in self if isinstance(one, Completion)), key=lambda one: one.sample)

    def __iter__(self) -> Iterator[TextDelta | Completion]:
        for step in self._feed:
            yield from list_events(step)

    async def __aiter__(self) -> AsyncIterator[TextDelta | Completion]:
        async for step in self._feed:
            for event in list_events(step):
                yield event


def list_events(step: Step) -> list[TextDelta | Completion]:
    """Return the news of a step in their order: of each completion its text first."""
    return [event for one in step.outputs for event in (one.delta, one.completion) if event]
