"""Result of a preview job."""

from typing import Literal

from pydantic import Field

from jobs.results.fields import Result
from jobs.specs.fields import StrictModel

MAX_SHOWN_TOKENS = 512  # maximum number of tokens shown per example, because the result is stored in a database row


class PreviewToken(StrictModel):
    """One token of an example."""

    id: int
    piece: str = Field(description="The token's text, with a mark for each space")
    trained: bool = Field(description="Whether the model learns to predict this token")


class PreviewExample(StrictModel):
    """The first tokens of an example."""

    length: int = Field(description="Number of tokens in the example after it was cut")
    tokens: list[PreviewToken] = Field(description=f"At most the first {MAX_SHOWN_TOKENS} tokens")


class LengthCount(StrictModel):
    """The number of examples whose length falls within one range."""

    shortest: int = Field(description="Lower end of the range, in tokens before an example is cut")
    longest: int | None = Field(description="Upper end of the range; null if there is no limit")
    examples: int


class PreviewResult(Result):
    """A dataset as a fine-tune would read it."""

    kind: Literal["preview"] = "preview"
    data_format: str = Field(description="Format of the file")
    chat_format: str | None = Field(description="How the model writes chats; null for plain text")
    examples: list[PreviewExample] = Field(description="The first examples that the model would learn from")
    count: int = Field(description="Number of examples that the model can learn from")
    tokens: int = Field(description="Number of tokens in these examples")
    trained_tokens: int = Field(description="Number of tokens that the model learns to predict")
    dropped_examples: int = Field(description="Number of examples dropped because max_length cuts off every answer")
    truncated_examples: int = Field(description="Number of examples that were cut to max_length")
    lengths: list[LengthCount] = Field(description="A histogram of the lengths of all examples that were read")
    complete: bool = Field(description="Whether the whole file was read")
