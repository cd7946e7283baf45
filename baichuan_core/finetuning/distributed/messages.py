"""What a launcher and its ranks tell each other: one JSON object per line."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from baichuan_core import errors
from baichuan_core.errors import BaichuanError
from baichuan_core.finetuning.distributed.distribution import Plan
from baichuan_core.finetuning.distributed.group import RankGroup
from baichuan_core.finetuning.options import FinetuningOptions
from baichuan_core.finetuning.report import FinetuningReport
from baichuan_core.progress import Progress

PAUSE = b"pause\n"
MessageKind = Literal["progress", "report", "error"]


@dataclass(frozen=True, slots=True)
class RunInputs:
    """What a run reads and writes; every rank gets the same."""

    checkpoint: Path
    training_data: Mapping[str, float]
    output: Path
    options: FinetuningOptions
    checkpoints: Path
    validation_data: Path | None
    resume_from: Path | None
    records: Path | None


@dataclass(frozen=True, slots=True)
class Task:
    """What one rank has to do.

    Attributes:
        inputs: Inputs of the run.
        plan: Distribution of the run.
        group: Place of this rank.
        port: Port of the launcher's store on machine 0.
        on_gpu: Whether each rank has a GPU.
        limits: Bytes that the launcher may take, by the number of the GPU, or 0 for the CPU.
    """

    inputs: RunInputs
    plan: Plan
    group: RankGroup
    port: int
    on_gpu: bool
    limits: Mapping[int, int]

    def encode(self) -> bytes:
        """Return the task as one line."""
        return json.dumps(asdict(self), default=str).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Self:
        """Read the line of `encode`."""
        fields: dict[str, Any] = json.loads(line)
        inputs = fields.pop("inputs")
        options = inputs.pop("options")
        options["lora_target_modules"] = tuple(options["lora_target_modules"])
        weights = inputs.pop("training_data")
        paths = {name: None if path is None else Path(path) for name, path in inputs.items()}
        limits = {int(device): count for device, count in fields.pop("limits").items()}
        return cls(
            limits=limits,
            inputs=RunInputs(**paths, training_data=weights, options=FinetuningOptions(**options)),  # type: ignore[arg-type]
            plan=Plan(**fields.pop("plan")),
            group=RankGroup(**fields.pop("group")),
            **fields,
        )


def encode_message(message: Progress | FinetuningReport | Exception) -> bytes:
    """Return a message of a rank as one line."""
    kind: MessageKind
    match message:
        case Progress():
            kind, content = "progress", asdict(message)
        case FinetuningReport():
            kind, content = "report", asdict(message)
        case _:
            kind, content = "error", {"type": type(message).__name__, "message": str(message)}
    return json.dumps({"kind": kind, "content": content}).encode() + b"\n"


def decode_message(line: bytes) -> Progress | FinetuningReport | Exception:
    """Read a line of `encode_message`; errors of ours come back as what they were, others as `RuntimeError`."""
    message = json.loads(line)
    content = message["content"]
    match message["kind"]:
        case "progress":
            return Progress(**content)
        case "report":
            return FinetuningReport(**content)
        case _:
            found = getattr(errors, content["type"], None)
            if isinstance(found, type) and issubclass(found, BaichuanError):
                return found(content["message"])
            return RuntimeError(f"{content['type']}: {content['message']}")
