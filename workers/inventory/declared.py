"""Devices that the operator declares; they are used instead of those that NVML finds."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError


class DeclaredDevice(BaseModel):
    """One entry of BAICHUAN_WORKER_DEVICES."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["cuda", "cpu"]
    index: Annotated[int, Field(ge=0)]
    uuid: Annotated[str, Field(min_length=1, max_length=128)]
    name: str = ""
    memory_bytes: Annotated[int, Field(gt=0)]


MAX_FILE_CHARACTERS = 2**20  # a list of 100 devices takes about 20,000 characters
DEVICES_ADAPTER = TypeAdapter(Annotated[tuple[DeclaredDevice, ...], Field(min_length=1)])


def read_declaration(text: str) -> tuple[DeclaredDevice, ...]:
    """Read devices from a JSON list, or from the JSON file whose path is given.

    Raises:
        ValueError: The text is neither, a field is missing or wrong, or two devices share a UUID or an index.
    """
    where = "the value"
    if not text.lstrip().startswith("["):
        where = text
        try:
            with Path(text).open(encoding="utf-8") as file:
                text = file.read(MAX_FILE_CHARACTERS)
        except OSError as error:
            raise ValueError(f"{where} is neither a JSON list nor a readable file: {error.strerror}") from None
    try:
        devices = DEVICES_ADAPTER.validate_python(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: device {field}: {first['msg']}") from None
    except ValueError as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from None
    for field, values in (
        ("uuid", [device.uuid for device in devices]),
        ("index", [(device.type, device.index) for device in devices]),
    ):
        if len(set(values)) < len(values):
            raise ValueError(f"{where}: two devices have the same {field}; each device needs its own")
    return devices
