"""`model.chat(tokenizer, messages)`, as in the READMEs of the published models."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from baichuan_core.config import DEFAULT_CONTEXT_LENGTH, BaichuanConfig

MAX_NEW_TOKENS = 2048  # max_new_tokens in the published generation_config.json
INCOMPLETE_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # result of decoding only the first tokens of a character


class ChatTokenizer(Protocol):
    """The part of `BaichuanTokenizer` that a chat needs."""

    def encode_chat(
        self, messages: Sequence[Any], *, config: BaichuanConfig, settings: Mapping[str, Any], max_new_tokens: int
    ) -> list[int]:
        """Return the ids of the prompt."""
        ...

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> Any:
        """Decode token ids to text."""
        ...


class ChatMixin:
    """Mixin that adds the method `chat` to a model with `generate`."""

    config: BaichuanConfig
    generation_config: GenerationConfig
    generate: Callable[..., Any]

    if TYPE_CHECKING:  # provided at run time by PreTrainedModel

        @property
        def device(self) -> torch.device: ...

    @overload
    def chat(
        self,
        tokenizer: ChatTokenizer,
        messages: Sequence[Any],
        stream: Literal[False] = False,
        generation_config: GenerationConfig | None = None,
    ) -> str: ...

    @overload
    def chat(
        self,
        tokenizer: ChatTokenizer,
        messages: Sequence[Any],
        stream: Literal[True],
        generation_config: GenerationConfig | None = None,
    ) -> Iterator[str]: ...

    def chat(
        self,
        tokenizer: ChatTokenizer,
        messages: Sequence[Any],
        stream: bool = False,
        generation_config: GenerationConfig | None = None,
    ) -> str | Iterator[str]:
        """Generate the next answer of a chat, using the published prompt format or the checkpoint's own chat template.

        Args:
            tokenizer: The checkpoint's `BaichuanTokenizer`.
            messages: Messages with `role` (an optional first `system`, then `user` and `assistant`) and `content`.
            stream: Return an iterator that yields the text so far after each token, as the published code does.
                Closing it stops the generation.
            generation_config: Settings to use instead of the model's own.

        Raises:
            PromptError: The messages are invalid, or leave no room for the answer.
            TypeError: The tokenizer is not a `BaichuanTokenizer`.
        """
        if not hasattr(tokenizer, "encode_chat"):
            raise TypeError(
                f"chat requires the BaichuanTokenizer of the checkpoint, not a {type(tokenizer).__name__}:"
                " load it with AutoTokenizer after importing baichuan_core"
            )
        settings = deepcopy(generation_config or self.generation_config)
        window = self.config.model_max_length or DEFAULT_CONTEXT_LENGTH
        settings.max_new_tokens = settings.max_new_tokens or min(MAX_NEW_TOKENS, window // 2)
        named = {name: value for name, value in vars(settings).items() if value is not None}
        prompt = tokenizer.encode_chat(
            messages, config=self.config, settings=named, max_new_tokens=settings.max_new_tokens
        )
        input_ids = torch.tensor([prompt], device=self.device)
        arguments = {
            "inputs": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "generation_config": settings,
        }
        answer = _AnswerDecoder(tokenizer, settings.eos_token_id)
        if stream:
            return _stream_texts(self.generate, arguments, answer)
        output = self.generate(**arguments)
        return answer.decode(output[0, len(prompt) :].tolist())


class _AnswerDecoder:
    """Decoder that omits the end token of an answer."""

    def __init__(self, tokenizer: ChatTokenizer, end_token_ids: int | list[int] | None) -> None:
        self._tokenizer = tokenizer
        self._end_token_ids = end_token_ids if isinstance(end_token_ids, list) else [end_token_ids]

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of an answer, finished or not."""
        kept = token_ids[:-1] if token_ids and token_ids[-1] in self._end_token_ids else token_ids
        return str(self._tokenizer.decode(kept, skip_special_tokens=True))


class _TokenQueue(BaseStreamer):
    """Queue that passes the tokens of `generate` to another thread; None marks the end."""

    def __init__(self) -> None:
        self.tokens: SimpleQueue[int | BaseException | None] = SimpleQueue()
        self._prompt_seen = False

    def put(self, value: Tensor) -> None:
        """Receive the prompt, which is ignored, and then one token at a time."""
        if self._prompt_seen:
            self.tokens.put(int(value.item()))
        self._prompt_seen = True

    def end(self) -> None:
        """Mark the end of the answer."""
        self.tokens.put(None)


class _ClosedStreamCriteria(StoppingCriteria):
    def __init__(self, closed: Event) -> None:
        self._closed = closed

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:  # noqa: ARG002 - transformers' signature
        return torch.full((input_ids.shape[0],), self._closed.is_set(), device=input_ids.device)


def _stream_texts(generate: Callable[..., Any], arguments: Mapping[str, Any], answer: _AnswerDecoder) -> Iterator[str]:
    """Generate in another thread and yield the text so far whenever it has grown."""
    queue, closed = _TokenQueue(), Event()

    def run() -> None:
        try:
            generate(
                **arguments, streamer=queue, stopping_criteria=StoppingCriteriaList([_ClosedStreamCriteria(closed)])
            )
        except BaseException as error:  # noqa: BLE001 - the reading thread raises it again
            queue.tokens.put(error)

    thread = Thread(target=run, name="baichuan-chat", daemon=True)
    thread.start()
    try:
        yield from _decode_tokens(queue, answer)
    finally:
        closed.set()
        thread.join()


def _decode_tokens(queue: _TokenQueue, answer: _AnswerDecoder) -> Iterator[str]:
    token_ids: list[int] = []
    text = ""
    while (token := queue.tokens.get()) is not None:
        if isinstance(token, BaseException):
            raise token
        token_ids.append(token)
        longer = answer.decode(token_ids)
        if len(longer) > len(text) and not longer.endswith(INCOMPLETE_CHARACTER):
            text = longer
            yield text
    whole = answer.decode(token_ids)
    if whole != text:
        yield whole
