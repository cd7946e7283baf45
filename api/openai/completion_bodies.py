"""Request bodies for chat and text completions: each parameter of OpenAI's API is supported, ignored or rejected."""

import secrets
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from api.openai.bodies import RequestBody, Unsupported, apply_check
from jobs.inputs import CHECKS_BY_PARAMETER, find_problem, make_neutral_check, normalize_messages
from jobs.specs.fields import Metadata, ModelName

DEFAULT_WAIT_SECONDS = 60.0
MAX_WAIT_SECONDS = 600.0
MAX_CHOICES = 128  # per request: number of prompts times `n`
MAX_TEXT_LOGPROBS = 20
DEFAULT_MAX_TEXT_TOKENS = 16  # OpenAI's default for text completions
MAX_SEED = 2**31


def _build_rule_validator(name: str) -> BeforeValidator:
    """Return a validator that checks a parameter as in batch files."""
    return apply_check(CHECKS_BY_PARAMETER[name])


def _check_prompts(value: Any) -> Any:
    for prompt in value if isinstance(value, list) and value else [value]:
        if fault := find_problem("prompt", prompt):
            raise ValueError(f"{fault}, or a list of such strings")
    return value


class ChatExtension(BaseModel):
    """The parameters that clients send as `extra_body={"baichuan": {...}}`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    adapter: ModelName | None = Field(None, description="A LoRA adapter to apply to `model`")
    wait_seconds: float = Field(
        DEFAULT_WAIT_SECONDS, ge=0, le=MAX_WAIT_SECONDS, description="How long to wait for the model to be loaded"
    )


class StreamOptions(RequestBody):
    """Options for a streamed answer."""

    include_usage: bool | None = Field(None, description="Report token usage in a final chunk without choices")
    include_obfuscation: Annotated[object, apply_check(make_neutral_check(False))] = None


OptionalNumber = float | None
OptionalCount = int | None


class CompletionBody(RequestBody):
    """Parameters that chat and text completions share."""

    model: Annotated[str, _build_rule_validator("model")]
    max_tokens: Annotated[OptionalCount, _build_rule_validator("max_tokens")] = None
    temperature: Annotated[OptionalNumber, _build_rule_validator("temperature")] = Field(
        None, description="By default, the model's own temperature"
    )
    top_p: Annotated[OptionalNumber, _build_rule_validator("top_p")] = None
    top_k: Annotated[OptionalCount, _build_rule_validator("top_k")] = Field(None, description="Not in OpenAI's API")
    presence_penalty: Annotated[OptionalNumber, _build_rule_validator("presence_penalty")] = None
    frequency_penalty: Annotated[OptionalNumber, _build_rule_validator("frequency_penalty")] = None
    logit_bias: Annotated[dict[str, float] | None, _build_rule_validator("logit_bias")] = None
    seed: Annotated[OptionalCount, _build_rule_validator("seed")] = Field(None, description="Random by default")
    stop: Annotated[str | list[str] | None, _build_rule_validator("stop")] = None
    n: Annotated[OptionalCount, _build_rule_validator("n")] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    baichuan: ChatExtension = ChatExtension()

    @model_validator(mode="after")
    def _check_stream_options(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise _make_parameter_error("stream_options", "requires `stream: true`")
        return self

    @property
    def choices_per_prompt(self) -> int:
        """The number of completions per prompt."""
        return self.n or 1

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with a chunk that reports the token usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def _build_options(self) -> dict[str, Any]:
        """Return the fields to set in the engine's request, with a random seed unless the client chose one."""
        same = ("temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty", "stop", "n", "logit_bias")
        fields = {name: getattr(self, name) for name in same}
        fields["seed"] = secrets.randbelow(MAX_SEED) if self.seed is None else self.seed
        return {name: value for name, value in fields.items() if value is not None}


class ChatBody(CompletionBody):
    """A chat to answer."""

    messages: Annotated[list[dict[str, Any]], _build_rule_validator("messages"), BeforeValidator(normalize_messages)]
    max_completion_tokens: Annotated[OptionalCount, _build_rule_validator("max_completion_tokens")] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[OptionalCount, _build_rule_validator("top_logprobs")] = None
    store: bool | None = Field(None, description="Whether to store the messages and the answer for later retrieval")
    metadata: Metadata | None = None
    response_format: Annotated[object, _build_rule_validator("response_format")] = None
    # Parameters that are ignored, or rejected if their value would change the answer.
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    parallel_tool_calls: bool | None = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: Annotated[object, _build_rule_validator("modalities")] = None
    tools: Annotated[object, _build_rule_validator("tools")] = None
    tool_choice: Annotated[object, _build_rule_validator("tool_choice")] = None
    functions: Annotated[object, _build_rule_validator("functions")] = None
    function_call: Annotated[object, _build_rule_validator("function_call")] = None
    audio: Unsupported = None
    moderation: Unsupported = None
    prediction: Unsupported = None
    prompt_cache_options: Unsupported = None
    prompt_cache_retention: Unsupported = None
    reasoning_effort: Annotated[object, _build_rule_validator("reasoning_effort")] = None
    verbosity: Annotated[object, _build_rule_validator("verbosity")] = None
    web_search_options: Unsupported = None

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise _make_parameter_error(
                "max_tokens", "cannot be combined with max_completion_tokens; set only one of them"
            )
        if self.top_logprobs is not None and not self.logprobs:
            raise _make_parameter_error("top_logprobs", "requires `logprobs: true`")
        return self

    def build_requests(self) -> list[dict[str, Any]]:
        """Return the fields of the engine's requests; a chat needs only one request."""
        limit = self.max_completion_tokens or self.max_tokens
        fields = {
            **self._build_options(),
            "messages": self.messages,
            "keep_messages": True,
            **({"max_new_tokens": limit} if limit else {}),
            **({"logprobs": self.top_logprobs or 0} if self.logprobs else {}),
        }
        return [fields]

    @property
    def parameter_names(self) -> dict[str, str]:
        """The client's parameter for each field of the engine's request, if the names differ."""
        limit = "max_completion_tokens" if self.max_completion_tokens is not None else "max_tokens"
        return {"max_new_tokens": limit, "logprobs": "top_logprobs"}


class TextBody(CompletionBody):
    """Texts to continue."""

    prompt: Annotated[str | list[str], BeforeValidator(_check_prompts)]
    logprobs: int | None = Field(None, ge=0, le=MAX_TEXT_LOGPROBS)
    best_of: Annotated[object, _build_rule_validator("best_of")] = None
    echo: Annotated[object, _build_rule_validator("echo")] = None
    suffix: Annotated[object, _build_rule_validator("suffix")] = None

    @model_validator(mode="after")
    def _limit_choices(self) -> Self:
        if len(self.prompts) * self.choices_per_prompt > MAX_CHOICES:
            raise _make_parameter_error(
                "prompt", f"has {len(self.prompts)} texts; the number of texts times n must be at most {MAX_CHOICES}"
            )
        return self

    @property
    def prompts(self) -> list[str]:
        """The prompts as a list."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    def build_requests(self) -> list[dict[str, Any]]:
        """Return the fields of the engine's requests, one per prompt."""
        limit = {"max_new_tokens": self.max_tokens or DEFAULT_MAX_TEXT_TOKENS}
        logprobs = {} if self.logprobs is None else {"logprobs": self.logprobs}
        return [{**self._build_options(), **limit, **logprobs, "prompt": prompt} for prompt in self.prompts]

    @property
    def parameter_names(self) -> dict[str, str]:
        """The client's parameter for each field of the engine's request, if the names differ."""
        return {"max_new_tokens": "max_tokens"}


def _make_parameter_error(param: str, message: str) -> PydanticCustomError:
    """Return an error about a combination of parameters; the error names one of them."""
    return PydanticCustomError("parameter", "{message}", {"message": message, "param": param})  # see `api.validation`
