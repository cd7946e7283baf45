"""Specs of generate jobs as stored in rows, with long prompts and conversations in the artifact store."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from jobs.specs.fields import ModelName, StrictModel
from jobs.specs.generate import GenerateSpec
from jobs.specs.job_spec import JobSpec

# Longer inputs are stored as a file, which costs an fsync. A row with a shorter input takes one or two SQLite pages.
MAX_ROW_CHARACTERS = 1024
OVERHEAD_CHARACTERS_PER_TEXT = 32  # extra characters of JSON per message
MAX_PREVIEW_CHARACTERS = 200


class InlineInput(StrictModel):
    """The prompts or conversations that a client sent, stored as a JSON file in the artifact store."""

    field: Literal["prompts", "conversations"] = Field(description="The field of the spec that they were sent as")
    count: int = Field(description="Number of prompts or conversations")
    bytes: int = Field(description="Size of the JSON file, which `GET /v1/jobs/{id}/input` returns")
    sha256: str = Field(description="SHA-256 of that file in hex")
    preview: str = Field(description="Beginning of the first prompt, or of the first message")


class OpenAIBatch(StrictModel):
    """Marks a job that answers an OpenAI batch and writes its results in OpenAI's format."""

    endpoint: Literal["/v1/chat/completions", "/v1/completions"] = Field(description="The url of all lines")
    model: ModelName = Field(description="The model that the lines name")


class StoredGenerateSpec(GenerateSpec):
    """A generate spec with fields that clients cannot send.

    Attributes:
        inline_input: Describes prompts or conversations that are in the artifact store; both fields are then None.
        batch: Set if `input_file` is an OpenAI batch.
    """

    input_fields: ClassVar[tuple[str, ...]] = (*GenerateSpec.input_fields, "inline_input")

    inline_input: InlineInput | None = None
    batch: OpenAIBatch | None = None

    def with_input(self, files: Mapping[str, Path]) -> Self:
        """See `JobSpec.with_input`."""
        if self.inline_input is None:
            return self
        rest = self.model_dump(exclude={"inline_input", self.inline_input.field})
        content = json.loads(files["inline_input"].read_bytes())
        return type(self).model_validate({**rest, self.inline_input.field: content})


@dataclass(frozen=True, slots=True)
class SplitSpec:
    """A spec without its long input, and the content of the JSON file for the input."""

    spec: StoredGenerateSpec
    content: bytes


def has_long_input(spec: JobSpec) -> bool:
    """Whether the spec has prompts or conversations that are too long for a row."""
    if not isinstance(spec, GenerateSpec):
        return False
    texts = spec.prompts or [turn.content for turns in spec.conversations or () for turn in turns]
    return sum(len(text) + OVERHEAD_CHARACTERS_PER_TEXT for text in texts) > MAX_ROW_CHARACTERS


def split_off_input(spec: GenerateSpec) -> SplitSpec:
    """Separate a spec's prompts or conversations from the rest of the spec."""
    field: Literal["prompts", "conversations"] = "conversations" if spec.prompts is None else "prompts"
    only = set[str]([field])
    given: list[Any] = spec.model_dump(mode="json", include=only)[field]
    content = json.dumps(given, ensure_ascii=False).encode()
    described = InlineInput(
        field=field,
        count=len(given),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        preview=_get_first_text(given)[:MAX_PREVIEW_CHARACTERS],
    )
    rest = spec.model_dump(exclude=only)
    return SplitSpec(StoredGenerateSpec.model_validate({**rest, "inline_input": described}), content)


def _get_first_text(given: list[Any]) -> str:
    first = given[0]
    return first if isinstance(first, str) else str(first[0]["content"])
