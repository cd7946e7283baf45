"""Bounded field types for job specs."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

MODEL_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*$"


def _reject_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain NUL characters (U+0000); remove them")
    return text


NUL_VALIDATOR = AfterValidator(_reject_nul)  # PostgreSQL cannot store NUL characters in JSON
ModelName = Annotated[
    str,
    StringConstraints(pattern=MODEL_NAME_PATTERN, max_length=128),
    Field(description="A model id: letters, digits, '-', '_', with single '.' or '/' between them"),
]
FILE_ID_PATTERN = r"^file-[0-9a-z]{26}$"
FileId = Annotated[str, StringConstraints(pattern=FILE_ID_PATTERN)]
LabelKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
LabelValue = Annotated[str, StringConstraints(max_length=128), NUL_VALIDATOR]
MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64), NUL_VALIDATOR]
MetadataValue = Annotated[str, StringConstraints(max_length=512), NUL_VALIDATOR]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class StrictModel(BaseModel):
    """A frozen model that rejects unknown fields and values of the wrong type, such as "2" or true instead of 2."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class WeightedFile(StrictModel):
    """One of several training files, with its weight."""

    file: FileId
    weight: float = Field(
        1.0,
        gt=0,
        le=100,
        description="How often each example occurs per epoch: 2 means twice, 0.5 uses half of the examples",
    )
