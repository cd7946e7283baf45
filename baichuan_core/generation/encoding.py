"""Conversion of requests to engine input: prompt ids, limits, seeds and complete sampling settings."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from baichuan_core.errors import PromptError, TokenizerError
from baichuan_core.generation.engines.contract import EncodedRequest, SamplingSettings
from baichuan_core.generation.options import GenerationDefaults, GenerationOptions
from baichuan_core.generation.requests import GenerationRequest
from baichuan_core.generation.seeds import derive_completion_seed
from baichuan_core.tokenizer import BaichuanTokenizer, ChatFormat, Message, build_chat_prompt

# The same minimum as in vLLM. Dividing logits by a lower temperature may overflow, and sampling at this temperature is
# already practically greedy, unless two logits are nearly equal.
MIN_TEMPERATURE = 1e-5
UNLIMITED_TOKENS = 2**62  # a window for which no turn is dropped


@dataclass(frozen=True, slots=True)
class RequestEncoder:
    """An encoder that converts the requests for one checkpoint to engine input.

    Attributes:
        tokenizer: The checkpoint's tokenizer.
        options: The run's options; `defaults` fills in those that are None.
        defaults: The settings that the checkpoint recommends.
        window: The model's context length in tokens.
        vocabulary: Number of token ids in the model's vocabulary.
        chat_format: The chat format of the checkpoint.
    """

    tokenizer: BaichuanTokenizer
    options: GenerationOptions
    defaults: GenerationDefaults
    window: int
    vocabulary: int
    chat_format: ChatFormat

    def encode(self, requests: Sequence[GenerationRequest]) -> list[EncodedRequest]:
        """Encode each request into `n` consecutive encoded requests.

        Raises:
            PromptError: A prompt is empty, too long or cannot be encoded; the message names the request.
        """
        seen: Counter[tuple[int, ...]] = Counter()
        encoded: list[EncodedRequest] = []
        for index, request in enumerate(requests):
            settings = self.defaults.fill_options(request.override_options(self.options))
            place = request.place or f"request {index + 1}"
            ids = self._encode_prompt(request, place=place, max_new_tokens=settings.max_new_tokens or 1)
            self._check_logit_bias(settings, place)
            sampling = _make_sampling_settings(settings)
            occurrence = seen[ids] if request.seed is None else 0
            seen[ids] += request.seed is None
            encoded += [
                EncodedRequest(
                    index=index,
                    sample=sample,
                    prompt_ids=ids,
                    limit=min(settings.max_new_tokens or 1, self.window - len(ids)),
                    seed=derive_completion_seed(settings.seed, ids, occurrence, sample),
                    sampling=sampling,
                    stop=tuple(settings.stop),
                    logprobs=settings.logprobs,
                )
                for sample in range(settings.n)
            ]
        return encoded

    def _check_logit_bias(self, settings: GenerationOptions, place: str) -> None:
        """Reject biases for tokens outside the vocabulary."""
        unknown = max(settings.logit_bias, default=0)
        if unknown >= self.vocabulary:
            raise PromptError(
                f"{place}: logit_bias contains token {unknown}, but the model's largest token id is"
                f" {self.vocabulary - 1}; use token ids from this model's tokenizer"
            )

    def _encode_prompt(self, request: GenerationRequest, *, place: str, max_new_tokens: int) -> tuple[int, ...]:
        """Encode a prompt.

        Old turns of a chat are dropped to leave room for `max_new_tokens`, see `GenerationRequest.keep_messages`; a
        plain prompt may fill all but one token of the window.
        """
        try:
            if request.messages is not None:
                if request.keep_messages:
                    whole = self._build_chat_prompt(request.messages, UNLIMITED_TOKENS, max_new_tokens=1)
                    if len(whole) < self.window:
                        return whole
                return self._build_chat_prompt(request.messages, self.window, max_new_tokens=max_new_tokens)
            self.tokenizer.encode_text(request.prompt or "")  # raises if the text cannot be encoded
            ids: tuple[int, ...] = tuple(self.tokenizer.encode(request.prompt or ""))
        except (PromptError, TokenizerError) as error:
            raise PromptError(f"{place}: {error}") from error
        if not ids:
            raise PromptError(f"{place}: the prompt is empty; it must have at least one character")
        if len(ids) >= self.window:
            raise PromptError(
                f"{place}: the prompt has {len(ids)} tokens, but the model's context length is {self.window};"
                f" shorten the prompt to fewer than {self.window} tokens"
            )
        return ids

    def _build_chat_prompt(self, messages: Sequence[Message], window: int, *, max_new_tokens: int) -> tuple[int, ...]:
        return tuple(
            build_chat_prompt(
                self.tokenizer,
                messages,
                model_max_length=window,
                max_new_tokens=max_new_tokens,
                chat_format=self.chat_format,
            )
        )


def _make_sampling_settings(settings: GenerationOptions) -> SamplingSettings:
    temperature = (settings.temperature or 0.0) if settings.do_sample else 0.0
    return SamplingSettings(
        temperature=temperature if temperature >= MIN_TEMPERATURE else 0.0,
        top_k=settings.top_k or 0,
        top_p=1.0 if settings.top_p is None else settings.top_p,
        repetition_penalty=settings.repetition_penalty or 1.0,
        presence_penalty=float(settings.presence_penalty),
        frequency_penalty=float(settings.frequency_penalty),
        logit_bias=tuple(sorted((token, float(bias)) for token, bias in settings.logit_bias.items())),
    )
