"""Answers chats with the model of a job that has other work: the job's requests and the chats take turns."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from baichuan_core.checkpoint import NATIVE_ENGINE
from baichuan_core.generation import GenerationOptions, TextGenerator
from workers.handlers.chat_channel import ChatChannel
from workers.handlers.chat_server import ChatServer
from workers.handlers.contract import HandlerContext

MAX_COMPLETIONS = 8  # maximum number of open completions of chats, because they slow the job down
MAX_BATCH_TOKENS = 8_192  # maximum number of tokens of these completions; see `GenerationOptions.batch_tokens`
DRAIN_TIMEOUT_SECONDS = 60.0  # how long open chats may delay the end of the job


@contextmanager
def answering_chats(generator: TextGenerator, context: HandlerContext) -> Iterator[None]:
    """Answer chats while the block runs; at its end, refuse new ones and finish open ones.

    No chats are answered if the engine cannot run a second batch: llama.cpp and vLLM would have to restart for a longer
    chat.
    """
    if context.chats is None or generator.choice.name != NATIVE_ENGINE:
        yield
        return
    lane = generator.open_lane(GenerationOptions(batch_size=MAX_COMPLETIONS, batch_tokens=MAX_BATCH_TOKENS))
    server = _BackgroundChatServer(lane, context.chats)
    try:
        yield
    except BaseException:
        server.close(seconds=0.0)
        raise
    server.close(seconds=DRAIN_TIMEOUT_SECONDS)


class _BackgroundChatServer:
    """A chat server with its event loop in a separate thread."""

    def __init__(self, generator: TextGenerator, channel: ChatChannel) -> None:
        self._generator = generator
        self._channel = channel
        self._loop = asyncio.new_event_loop()
        self._closing: asyncio.Future[float] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="chats", daemon=True)
        self._thread.start()

    def close(self, *, seconds: float) -> None:
        """Refuse new chats, and wait at most `seconds` for the open ones before dropping them."""
        with suppress(RuntimeError):  # the loop has already failed; the worker refuses its chats
            self._loop.call_soon_threadsafe(self._closing.set_result, seconds)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with ChatServer(self._generator, self._channel, limit=MAX_COMPLETIONS).open() as server:
            seconds = await self._closing
            with suppress(TimeoutError):
                await asyncio.wait_for(server.drain(), seconds)
