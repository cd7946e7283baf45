"""Result of a generate job."""

from typing import Literal

from pydantic import Field

from jobs.results.fields import FiniteFloat, Result


class GenerateResult(Result):
    """Counts and speed; the completions are in the artifact completions.jsonl."""

    kind: Literal["generate"] = "generate"
    requests: int = Field(description="Requests that were answered")
    completions: int = Field(description="Completions that were written, n per request")
    resumed: int = Field(description="Completions that an earlier attempt had finished")
    prompt_tokens: int = Field(description="Tokens of the prompts, each prompt counted once")
    completion_tokens: int = Field(description="Tokens of all completions, with end tokens")
    generated_tokens: int = Field(description="Tokens that the last attempt generated")
    seconds: FiniteFloat = Field(description="Time of the generation, without loading")
    tokens_per_second: FiniteFloat = Field(description="generated_tokens per second")
    chat_format: str | None = Field(
        None, description="How conversations were written: a published format, or the checkpoint's own chat_template"
    )
    engine: str = Field(description="The engine that ran the model")
    engine_reason: str = Field(description="Why this engine")
    rejected: int = Field(0, description="Requests of a batch that could not be answered; its error file says why")
