"""Result of a serve job."""

from typing import Literal

from pydantic import Field

from jobs.results.fields import FiniteFloat, Result


class ServeResult(Result):
    """The counts of the last attempt; each chat is also recorded individually."""

    kind: Literal["serve"] = "serve"
    chats: int = Field(description="Number of chats that were answered completely")
    aborted: int = Field(description="Number of chats whose clients left before the answer was complete")
    refused: int = Field(description="Number of chats that were invalid, arrived while the batch was full, or failed")
    prompt_tokens: int = Field(description="Number of tokens in the prompts of all chats that were started")
    completion_tokens: int = Field(description="Number of tokens in the completions that ended, including end tokens")
    seconds: FiniteFloat = Field(description="Time from when the model was loaded until the job ended")
    chat_format: str | None = Field(
        None, description="How conversations are written: a published format, or the checkpoint's own chat_template"
    )
    engine: str = Field(description="The engine that ran the model")
    engine_reason: str = Field(description="Why this engine was chosen")
