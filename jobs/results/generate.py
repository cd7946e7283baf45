"""Result of a generate job."""

from typing import Literal

from pydantic import Field

from jobs.results.fields import FiniteFloat, Result


class GenerateResult(Result):
    """Counts and throughput of a generate job; the completions are in the artifact completions.jsonl."""

    kind: Literal["generate"] = "generate"
    requests: int = Field(description="Number of requests that were answered")
    completions: int = Field(description="Number of completions that were written, n per request")
    resumed: int = Field(description="Number of completions that earlier attempts had finished")
    prompt_tokens: int = Field(description="Number of tokens in the prompts; each prompt is counted once")
    completion_tokens: int = Field(description="Number of tokens in all completions, including end tokens")
    generated_tokens: int = Field(description="Number of tokens that the last attempt generated")
    seconds: FiniteFloat = Field(description="Time spent generating, without loading the model")
    tokens_per_second: FiniteFloat = Field(description="generated_tokens per second")
    chat_format: str | None = Field(
        None, description="How conversations were written: a published format, or the checkpoint's own chat_template"
    )
    engine: str = Field(description="The engine that ran the model")
    engine_reason: str = Field(description="Why this engine was chosen")
    rejected: int = Field(
        0, description="Number of batch requests that could not be answered; the batch's error file says why"
    )
