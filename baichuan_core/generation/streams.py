"""A stream of one request's completions."""

from collections import deque
from typing import Self

from baichuan_core.generation.engines.outputs import Completion, StepOutputs, TextDelta
from baichuan_core.generation.open_batch import OutputFeed


class CompletionStream:
    """The text generated for a submitted request, as an iterator for use in any thread or event loop.

    It yields `TextDelta`s as the text is generated, and one `Completion` for each of the request's `n` completions when
    that completion has finished. If a completion fails, the iterator raises its error. Only one consumer may iterate. A
    stream that is no longer referenced is cancelled.

    Example:
        stream = generator.submit(request)
        for event in stream:                     or `async for event in stream`
            print(event)                         TextDelta, TextDelta, ..., Completion

    Attributes:
        prompt_tokens: Number of tokens in the request's prompt.
    """

    def __init__(self, feed: OutputFeed, *, prompt_tokens: int = 0) -> None:
        self.prompt_tokens = prompt_tokens
        self._feed = feed
        self._events: deque[TextDelta | Completion] = deque()

    def cancel(self) -> None:
        """Stop the request, end the iteration, and free the request's slots; any thread may call this."""
        self._feed.cancel()

    def result(self) -> list[Completion]:
        """Wait for the completions that have not been read, and return them ordered by sample.

        Raises:
            CheckpointError: The model produces NaN.
            UnsupportedError: A completion does not fit in memory, even if it runs alone.
        """
        return sorted((one for one in self if isinstance(one, Completion)), key=lambda one: one.sample)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TextDelta | Completion:
        try:
            while not self._events:
                self._events += list_events(self._feed.get())
        except EOFError:
            raise StopIteration from None
        return self._events.popleft()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TextDelta | Completion:
        try:
            while not self._events:
                self._events += list_events(await self._feed.aget())
        except EOFError:
            raise StopAsyncIteration from None
        return self._events.popleft()


def list_events(step: StepOutputs) -> list[TextDelta | Completion]:
    """Return the events of a step in order; the text of a completion comes before the completion."""
    return [event for one in step.outputs for event in (one.delta, one.completion) if event]
