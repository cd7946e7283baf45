"""Result of a serve job."""

from typing import Literal

from pydantic import Field

from jobs.results.fields import FiniteFloat, Result


class ServeResult(Result):
    """Counts of the last attempt; the chats themselves are recorded one by one."""

    kind: Literal["serve"] = "serve"
    chats: int = Field(description="Chats that were answered to the end")
    aborted: int = Field(description="Chats whose clients left before the end")
    refused: int = Field(description="Chats that were invalid, came while the batch was full, or failed")
    prompt_tokens: int = Field(description="Tokens of the prompts of all chats that were begun")
    completion_tokens: int = Field(description="Tokens of the completions that ended, with end tokens")
    seconds: FiniteFloat = Field(description="Time from the loaded model to the end")
    chat_format: str | None = Field(
        None, description="How conversations are written: a published format, or the checkpoint's own chat_template"
    )
    engine: str = Field(description="The engine that ran the model")
    engine_reason: str = Field(description="Why this engine")
