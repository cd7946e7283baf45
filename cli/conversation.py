"""A conversation with a model over `POST /v1/chat/completions`, streamed in the format of OpenAI's API."""

import json
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import httpx

from cli.client import Client
from cli.errors import CommandError
from cli.exit_codes import ExitCode

CHAT_PATH = "/v1/chat/completions"
SILENCE_TIMEOUT_SECONDS = 60  # the service sends a keep-alive comment every 15 s by default


class Conversation:
    """A conversation: its turns so far, and the parameters of its requests.

    Attributes:
        system: The system prompt, or None.
        turns: Alternating messages of the user and the assistant.
    """

    def __init__(self, client: Client, request: Mapping[str, Any], *, system: str | None, wait_seconds: int) -> None:
        """Prepare a conversation.

        Args:
            client: Client for the service.
            request: Request parameters other than the messages.
            system: The system prompt.
            wait_seconds: How long the service may take to load the model.
        """
        self.system = system
        self.turns: list[dict[str, str]] = []
        self._client = client
        self._request = request
        self._timeout = httpx.Timeout(wait_seconds + SILENCE_TIMEOUT_SECONDS, connect=5)

    def clear(self) -> None:
        """Forget all turns but keep the system prompt."""
        self.turns.clear()

    def stream_answer(self, text: str) -> Generator[str]:
        """Yield the answer to a message as it arrives.

        When the iteration ends, for whatever reason, the text received so far becomes the assistant's turn. If no text
        was received, the message is forgotten.

        Raises:
            CommandError: The service rejects the request or does not respond, or the answer is cut off.
        """
        first = [{"role": "system", "content": self.system}] if self.system else []
        asked = [*self.turns, {"role": "user", "content": text}]
        body = {**self._request, "messages": [*first, *asked], "stream": True}
        written: list[str] = []
        try:
            for piece in self._stream(body):
                written.append(piece)
                yield piece
        finally:
            if written:
                self.turns = [*asked, {"role": "assistant", "content": "".join(written)}]

    def _stream(self, body: Mapping[str, Any]) -> Iterator[str]:
        with self._client.post_stream(CHAT_PATH, body, self._timeout) as response:
            yield from _read_answer_text(response.iter_lines())


def _read_answer_text(lines: Iterator[str]) -> Iterator[str]:
    """Yield the text of a stream of server-sent events up to `[DONE]`.

    Raises:
        CommandError: The stream contains an error event, or ends early.
    """
    for line in lines:
        if not line.startswith("data:"):
            continue  # comments keep the connection open; the other fields are not used
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        chunk = json.loads(data)
        if error := chunk.get("error"):
            raise CommandError(f"the answer was cut off: {error['message']}", ExitCode.FAILED)
        for choice in chunk.get("choices", ()):
            if piece := choice["delta"].get("content"):
                yield piece
    raise CommandError("the answer was cut off: the connection was closed", ExitCode.UNREACHABLE)
