"""Result of a preview job."""

from typing import Literal

from pydantic import Field

from jobs.results.fields import Result
from jobs.specs.fields import StrictModel

MAX_SHOWN_TOKENS = 512  # maximum number of tokens shown per example, because the result is stored in a row


class PreviewToken(StrictModel):
    """One token of an example."""

    id: int
    piece: str = Field(description="Its text, with a mark for a space")
    trained: bool = Field(description="Whether the model learns to predict it")


class PreviewExample(StrictModel):
    """The first tokens of an example."""

    length: int = Field(description="Tokens of the example, after it was cut")
    tokens: list[PreviewToken] = Field(description=f"The first {MAX_SHOWN_TOKENS} of them at most")


class LengthCount(StrictModel):
    """The number of examples whose length falls into one range."""

    shortest: int = Field(description="In tokens, before an example is cut")
    longest: int | None = Field(description="null: no limit")
    examples: int


class PreviewResult(Result):
    """How a fine-tune would read a data set."""

    kind: Literal["preview"] = "preview"
    data_format: str = Field(description="Name of the format of the file")
    chat_format: str | None = Field(description="How the model writes chats; null for plain text")
    examples: list[PreviewExample] = Field(description="The first ones that are learned from")
    count: int = Field(description="Examples that can be learned from")
    tokens: int = Field(description="Their tokens")
    trained_tokens: int = Field(description="Those that the model learns to predict")
    dropped_examples: int = Field(description="Examples left out because max_length cuts every answer")
    truncated_examples: int = Field(description="Examples that max_length cut")
    lengths: list[LengthCount] = Field(description="A histogram of all examples that were read")
    complete: bool = Field(description="Whether the whole file was read")
