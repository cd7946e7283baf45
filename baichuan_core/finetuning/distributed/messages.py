"""Messages between a launcher and its ranks, one JSON object per line."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from baichuan_core.errors import BaichuanError
from baichuan_core.finetuning.distributed.distribution import DistributionPlan
from baichuan_core.finetuning.distributed.group import RankGroup
from baichuan_core.finetuning.options import FinetuningOptions
from baichuan_core.finetuning.report import FinetuningReport
from baichuan_core.progress import Progress

PAUSE_COMMAND = b"pause\n"
MessageKind = Literal["progress", "resume_point", "report", "error"]


@dataclass(frozen=True, slots=True)
class RunArguments:
    """The arguments of a run, which are the same for every rank."""

    checkpoint: Path
    training_data: Mapping[str, float]
    output: Path
    options: FinetuningOptions
    checkpoints: Path
    validation_data: Path | None
    resume_from: Path | None
    records: Path | None


@dataclass(frozen=True, slots=True)
class RankTask:
    """The task of one rank.

    Attributes:
        inputs: Arguments of the run.
        plan: Distribution of the run.
        group: This rank's index among all ranks.
        port: Port of the launcher's store on machine 0.
        on_gpu: Whether each rank has a GPU.
        limits: Bytes that the launcher may use on each device, by GPU index, or 0 for the CPU.
    """

    inputs: RunArguments
    plan: DistributionPlan
    group: RankGroup
    port: int
    on_gpu: bool
    limits: Mapping[int, int]

    def encode(self) -> bytes:
        """Return the task as one line."""
        return json.dumps(asdict(self), default=str).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Self:
        """Decode a line written by `encode`."""
        fields: dict[str, Any] = json.loads(line)
        inputs = fields.pop("inputs")
        options = inputs.pop("options")
        for name in ("lora_target_modules", "report_to"):
            options[name] = tuple(options[name])
        weights = inputs.pop("training_data")
        paths = {name: None if path is None else Path(path) for name, path in inputs.items()}
        limits = {int(device): count for device, count in fields.pop("limits").items()}
        return cls(
            limits=limits,
            inputs=RunArguments(**paths, training_data=weights, options=FinetuningOptions(**options)),  # type: ignore[arg-type]
            plan=DistributionPlan(**fields.pop("plan")),
            group=RankGroup(**fields.pop("group")),
            **fields,
        )


@dataclass(frozen=True, slots=True)
class ResumePointSaved:
    """A message reporting that rank 0 has completed a resume point."""

    folder: Path


def encode_message(message: Progress | ResumePointSaved | FinetuningReport | Exception) -> bytes:
    """Encode a rank's message as one line."""
    kind: MessageKind
    match message:
        case Progress():
            kind, content = "progress", asdict(message)
        case ResumePointSaved():
            kind, content = "resume_point", {"folder": str(message.folder)}
        case FinetuningReport():
            kind, content = "report", asdict(message)
        case _:
            kind, content = "error", {"type": type(message).__name__, "message": str(message)}
    return json.dumps({"kind": kind, "content": content}).encode() + b"\n"


def decode_message(line: bytes) -> Progress | ResumePointSaved | FinetuningReport | Exception:
    """Decode a line written by `encode_message`; unknown error classes become `RuntimeError`."""
    message = json.loads(line)
    content = message["content"]
    match message["kind"]:
        case "progress":
            return Progress(**content)
        case "resume_point":
            return ResumePointSaved(Path(content["folder"]))
        case "report":
            return FinetuningReport(**content)
        case _:
            if content["type"] == MemoryError.__name__:
                return MemoryError(content["message"])
            if (found := _find_error_class(BaichuanError, content["type"])) is not None:
                return found(content["message"])
            return RuntimeError(f"{content['type']}: {content['message']}")


def _find_error_class(base: type[BaichuanError], name: str) -> type[BaichuanError] | None:
    """Return the class with this name among `base` and its subclasses; None if there is none."""
    if base.__name__ == name:
        return base
    found = (_find_error_class(derived, name) for derived in base.__subclasses__())
    return next((error for error in found if error is not None), None)
