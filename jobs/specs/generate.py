"""Spec of a generate job, which generates completions for prompts or conversations."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from footprint import Footprint
from jobs.specs.fields import NUL_VALIDATOR, FileId, Seed, StrictModel
from jobs.specs.model_properties import ModelProperties
from jobs.specs.text_generation import TextGenerationSpec

Text = Annotated[str, StringConstraints(min_length=1, max_length=200_000), NUL_VALIDATOR]


class Message(StrictModel):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, StringConstraints(max_length=200_000), NUL_VALIDATOR]


class GenerateSpec(TextGenerationSpec):
    """A job that completes prompts or answers conversations, given inline or as an uploaded JSONL file."""

    input_fields: ClassVar[tuple[str, ...]] = ("prompts", "conversations", "input_file")

    kind: Literal["generate"]
    prompts: list[Text] | None = Field(None, min_length=1, max_length=1000)
    conversations: list[Annotated[list[Message], Field(min_length=1, max_length=200)]] | None = Field(
        None, min_length=1, max_length=1000
    )
    input_file: FileId | None = Field(
        None,
        description='JSONL, one {"prompt": …} or {"messages": […]} per line; a line may have its own `id`,'
        " `max_new_tokens` (or `max_tokens`), `temperature`, `top_k`, `top_p`, `seed`, `stop` and `n`;"
        " lines in OpenAI's batch format are accepted too, and any other key is an error",
    )
    max_new_tokens: int = Field(256, ge=1, le=8192)
    temperature: float | None = Field(
        None, ge=0, le=2, description="0 means greedy decoding; by default, the model's own value"
    )
    top_k: int | None = Field(None, ge=0, le=1000)
    top_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    stop: list[Annotated[str, StringConstraints(min_length=1, max_length=64), NUL_VALIDATOR]] = Field(
        default_factory=list, max_length=8
    )
    seed: Seed = 0
    n: int = Field(1, ge=1, le=128, description="Number of completions per request, each sampled separately")
    logprobs: int | None = Field(
        None, ge=0, le=20, description="Report the log probabilities of each token and of this many alternatives"
    )

    @model_validator(mode="after")
    def _check_input_fields(self) -> Self:
        given = [name for name in self.input_fields if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"set exactly one of prompts, conversations and input_file; found {found}")
        return self

    def list_file_references(self) -> dict[str, str]:
        """See `JobSpec.list_file_references`."""
        return {"input_file": self.input_file} if self.input_file else {}

    def estimate_footprints(self, model: ModelProperties, *, on_gpu: bool = True) -> Sequence[Footprint]:  # noqa: ARG002 - the same on CPU and GPU
        """See `JobSpec.estimate_footprints`."""
        prompts, limit = self._estimate_prompt_tokens(model.shape.context_length), self.max_new_tokens
        return [self.estimate_open_batch_memory(model, prompts, max_new_tokens=limit)]

    def _estimate_prompt_tokens(self, unknown: int) -> list[int]:
        """Return the maximum number of prompt tokens for each completion; a character is rarely more than one token."""
        if self.prompts is not None:
            return [len(prompt) for prompt in self.prompts] * self.n
        if self.conversations is not None:
            return [sum(len(turn.content) + 1 for turn in turns) for turns in self.conversations] * self.n
        return [unknown] * self.batch_size
