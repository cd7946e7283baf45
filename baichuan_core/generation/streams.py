"""A stream of the completions of one request."""

from collections import deque
from typing import Self

from baichuan_core.generation.engines.outputs import Completion, Step, TextDelta
from baichuan_core.generation.open_batch import Feed


class CompletionStream:
    """The text of a submitted request as it is generated, for iteration in any thread or event loop.

    It yields `TextDelta`s, and each of the request's `n` completions as a `Completion` once it is finished; if one of
    them fails, it raises the error. Only one consumer may iterate. A stream that is no longer referenced is cancelled.

    Example:
        stream = generator.submit(request)
        for event in stream:                     or `async for event in stream`
            print(event)                         TextDelta, TextDelta, ..., Completion

    Attributes:
        prompt_tokens: Tokens of the request's prompt.
    """

    def __init__(self, feed: Feed, *, prompt_tokens: int = 0) -> None:
        self.prompt_tokens = prompt_tokens
        self._feed = feed
        self._events: deque[TextDelta | Completion] = deque()

    def cancel(self) -> None:
        """Stop the request and end the iteration; any thread may call this. Its slots are free in the next step."""
        self._feed.cancel()

    def result(self) -> list[Completion]:
        """Wait for the completions that have not been read, and return them ordered by sample.

        Raises:
            CheckpointError: The model computes NaN.
            UnsupportedError: A completion does not fit into memory even if it runs alone.
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


def list_events(step: Step) -> list[TextDelta | Completion]:
    """Return the events of a step in order; the text of a completion comes before the completion."""
    return [event for one in step.outputs for event in (one.delta, one.completion) if event]
