"""Streams an answer in progress as server-sent events.

There are no `id:` or `retry:` lines, because the `openai` client does not expect them.
"""

import time
from collections.abc import Sequence

from fastapi import Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from api.connections import run_while_connected
from api.errors import to_openai_error
from api.openai.answers import Answer, CompletionDelta
from api.openai.completion_objects import DONE_EVENT, ChunkFormatter, format_error_event
from jobs.errors import DomainError

KEEPALIVE_COMMENT = b": still here\n\n"
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class CompletionStream(Response):
    """Streams an answer until `[DONE]`, an error event or a client disconnect, then closes the answer.

    Args:
        answer: The answer, which a runner has begun.
        formatter: Formats the chunks of the answer.
        counts: Whether a final chunk reports the token usage.
        idle_seconds: How often a silent stream sends a comment.
    """

    media_type = "text/event-stream"

    def __init__(self, answer: Answer, formatter: ChunkFormatter, *, counts: bool, idle_seconds: float) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(STREAM_HEADERS)
        self._answer = answer
        self._formatter = formatter
        self._counts = counts
        self._idle_seconds = idle_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's interface
        """Send the headers and the events."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await run_while_connected(receive, self._send_events(send))
        except ClientDisconnect:
            pass
        finally:
            self._answer.close()

    async def _send_events(self, send: Send) -> None:
        async def emit(text: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": text, "more_body": more})

        answer, spoke = self._answer, time.monotonic()
        await emit(self._formatter.format_role_chunks(answer.choices).encode())
        try:
            async for deltas in answer.stream_deltas():
                if deltas:
                    spoke = time.monotonic()
                    await emit(self._encode_deltas(deltas))
                elif time.monotonic() - spoke > self._idle_seconds:
                    spoke = time.monotonic()
                    await emit(KEEPALIVE_COMMENT)
        except DomainError as error:
            answer.mark_failed(error)
            await emit(format_error_event(to_openai_error(error)), more=False)
            return
        count = self._formatter.format_usage_chunk(answer.usage).encode() if self._counts else b""
        await emit(count + DONE_EVENT, more=False)

    def _encode_deltas(self, deltas: Sequence[CompletionDelta]) -> bytes:
        format_text, finish = self._formatter.format_text_chunk, self._formatter.format_finish_chunk
        texts = [
            finish(delta.choice) if delta.text is None else format_text(delta.choice, delta.text, delta.logprobs)
            for delta in deltas
        ]
        return "".join(texts).encode("utf-8", "replace")
