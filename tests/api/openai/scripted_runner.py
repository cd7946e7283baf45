"""A scripted runner: it reads the calls to an attempt from a real Redis, and replies as requested by the prompt.

The last message or the prompt is the answer, word by word, in each of `n` completions. Some prompts ask for more:
`busy`, `leaving` and `invalid` are refused, `die` fails after one word, `gap` loses a reply, `forever` writes until it
is aborted, `silent` begins and says nothing more, and `think` gives nothing but signs of life for a while.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from jobs.chats.messages import (
    CALL_ADAPTER,
    REPLIES_ADAPTER,
    Abort,
    ChatEnded,
    ChatRefused,
    ChatRequest,
    ChatsAlive,
    ChatStarted,
    ChoiceEnded,
    Delta,
    Reply,
    TokenLogprob,
    call_queue_key,
    reply_stream_key,
)

PROMPT_TOKENS = 3
BEAT_SECONDS = 0.02  # between two words of an endless answer
THINK_SECONDS = 20.0  # longer than a runner may be silent


class ScriptedRunner:
    """Answers the chats of one attempt from a thread.

    Attributes:
        asked: Requests in the order of their arrival.
        aborted: Ids of requests that were aborted.
    """

    def __init__(self, url: str, attempt_id: str) -> None:
        self.asked: list[ChatRequest] = []
        self.aborted: list[str] = []
        self._redis = redis.Redis.from_url(url)
        self._queue = call_queue_key(attempt_id)
        self._thinking: dict[str, tuple[ChatRequest, float]] = {}  # with the time at which the answer is due
        self._endless: dict[str, tuple[ChatRequest, int]] = {}  # with the number of the next reply
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @contextmanager
    def running(self) -> Iterator["ScriptedRunner"]:
        """Answer chats while the block runs."""
        self._thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            self._thread.join()
            self._redis.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            found = self._redis.blpop([self._queue], timeout=BEAT_SECONDS)
            if found:
                call = CALL_ADAPTER.validate_json(found[1])
                if isinstance(call, Abort):
                    self.aborted.append(call.id)
                    self._endless.pop(call.id, None)
                else:
                    self.asked.append(call)
                    self._reply(call, play(call))
                    match prompt_of(call.request):
                        case "forever":
                            self._endless[call.id] = (call, 1)
                        case "think":
                            self._thinking[call.id] = (call, time.monotonic() + THINK_SECONDS)
                        case _:
                            pass
            self._think()
            for chat_id, (ask, number) in list(self._endless.items()):
                self._reply(ask, [Delta(chat_id, number, 0, "on ")])
                self._endless[chat_id] = (ask, number + 1)

    def _think(self) -> None:
        for chat_id, (ask, ends_at) in list(self._thinking.items()):
            if time.monotonic() < ends_at:
                self._reply(ask, [ChatsAlive([chat_id])])
            else:
                del self._thinking[chat_id]
                self._reply(ask, list(write(ask, ["thought"])))

    def _reply(self, ask: ChatRequest, replies: list[Reply]) -> None:
        if replies:
            self._redis.xadd(reply_stream_key(ask.reply_to), {"replies": REPLIES_ADAPTER.dump_json(replies)})


def prompt_of(request: Any) -> str:
    """The text that a request asks to answer."""
    text: str = request["messages"][-1]["content"] if "messages" in request else request["prompt"]
    return text


def play(ask: ChatRequest) -> list[Reply]:
    """Return all replies to a request, or the first of them if they are endless."""
    prompt, started = prompt_of(ask.request), ChatStarted(ask.id, 0, PROMPT_TOKENS)
    special: dict[str, list[Reply]] = {
        "busy": [ChatRefused(ask.id, 0, "busy", "the runner answers 32 chats already")],
        "leaving": [ChatRefused(ask.id, 0, "leaving", "the job is about to end")],
        "invalid": [ChatRefused(ask.id, 0, "invalid", "max_new_tokens 600 leaves no room", "max_new_tokens")],
        "die": [started, Delta(ask.id, 1, 0, "word"), ChatRefused(ask.id, 2, "failed", "the runner was killed")],
        "gap": [started, ChatEnded(ask.id, 7)],
        "silent": [started],
        "think": [started],
        "forever": [started],
    }
    return special.get(prompt) or [started, *write(ask, prompt.split(" "))]


def write(ask: ChatRequest, words: list[str]) -> Iterator[Reply]:
    """Write the words as the answer of each completion."""
    number = 1
    for choice in range(ask.request.get("n", 1)):
        for position, word in enumerate(words):
            text = word if position == 0 else f" {word}"
            chances = [chance(text, ask.request["logprobs"])] if "logprobs" in ask.request else []
            yield Delta(ask.id, number, choice, text, chances)
            number += 1
        yield ChoiceEnded(ask.id, number, choice, "stop", len(words))
        number += 1
    yield ChatEnded(ask.id, number)


def chance(text: str, alternatives: int) -> TokenLogprob:
    """Return a token with its alternatives."""
    others = [TokenLogprob(f"{text}{number}", list(f"{text}{number}".encode()), -2.0) for number in range(alternatives)]
    return TokenLogprob(text, list(text.encode()), -0.5, others)
