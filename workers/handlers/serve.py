"""Handler for serve jobs, which answer chats with a loaded model until no more arrive."""

import asyncio
import time
from dataclasses import asdict

from baichuan_core.generation import GenerationOptions, TextGenerator
from baichuan_core.progress import Progress
from jobs.results import ServeResult
from jobs.specs import ServeSpec
from workers.handlers.chat_server import ChatServer
from workers.handlers.contract import DevicesReleasedError, HandlerContext, HandlerOutcome

POLL_INTERVAL_SECONDS = 0.2
MAKE_ROOM_IDLE_SECONDS = 1.0  # idle time after which the job ends if other jobs are waiting
REPORT_INTERVAL_SECONDS = 5.0  # minimum seconds between two progress events
MAX_WAITING_PER_RUNNING = 1  # maximum number of waiting completions per running one


def estimate_output_bytes(_spec: ServeSpec, _checkpoint_bytes: int) -> int:
    """Return 0, because nothing is written."""
    return 0


def run(spec: ServeSpec, context: HandlerContext) -> HandlerOutcome[ServeResult]:
    """Load the model, then answer chats; each chat uses the checkpoint's own generation defaults.

    Raises:
        DevicesReleasedError: The job was asked to release its devices; all chats open at that time have been answered.
    """
    context.report(Progress(0.0, "loading"))
    generator = TextGenerator(
        context.models["model"],
        GenerationOptions(engine=spec.engine, batch_size=spec.batch_size, dtype=spec.dtype),
        adapter=context.models.get("adapter"),
        models=context.loaded,
    )
    try:
        generator.load()
        return HandlerOutcome(asyncio.run(_serve(generator, spec, context)))
    finally:
        generator.close()


def _get_idle_limit(spec: ServeSpec, context: HandlerContext) -> float:
    """Return the number of idle seconds after which the job ends."""
    return min(MAKE_ROOM_IDLE_SECONDS, spec.idle_seconds) if context.should_make_room() else spec.idle_seconds


async def _serve(generator: TextGenerator, spec: ServeSpec, context: HandlerContext) -> ServeResult:
    began = reported = time.monotonic()
    if context.chats is None:
        raise RuntimeError("a serve job needs a chat channel; run it in a runner")
    limit = (1 + MAX_WAITING_PER_RUNNING) * spec.batch_size
    async with ChatServer(generator, context.chats, limit=limit).open() as server:
        context.report(Progress(0.0, "serving"))
        last = server.counts
        while server.idle_seconds < _get_idle_limit(spec, context):
            await asyncio.sleep(min(POLL_INTERVAL_SECONDS, spec.idle_seconds))
            server.raise_engine_error()
            if context.should_pause():
                await server.drain()
                raise DevicesReleasedError
            now, counts = time.monotonic(), server.counts
            if counts != last and now - reported >= REPORT_INTERVAL_SECONDS:
                rate = (counts.completion_tokens - last.completion_tokens) / (now - reported)
                reported, last = now, counts
                context.report(Progress(0.0, "serving", {"chats": counts.chats, "tokens_per_second": rate}))
        counts = server.counts
    return ServeResult(
        **asdict(counts),
        seconds=time.monotonic() - began,
        chat_format=generator.chat_format.style,
        engine=generator.choice.name,
        engine_reason=generator.choice.reason,
    )
