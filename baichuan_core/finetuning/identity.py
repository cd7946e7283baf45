"""What a run was started with, so that a resume point continues that run only."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from baichuan_core.checkpoint.base_identity import BaseIdentity
from baichuan_core.errors import CheckpointError
from baichuan_core.finetuning.example_store import StoredExamples
from baichuan_core.finetuning.options import FinetuningOptions

RUN_FILE = "baichuan_run.json"
# What may differ after a resumption: these change no weight.
FREE_OPTIONS = ("device", "logging_steps", "save_strategy", "save_steps", "save_total_limit", "tf32", "report_to")


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """Base, data and options of a run, as JSON values.

    Attributes:
        base: Sizes and some numbers of the base checkpoint.
        training_data: Hash of the encoded examples.
        validation_data: The same of those that are evaluated.
        options: That decide about the weights.
    """

    base: Mapping[str, Any]
    training_data: str
    validation_data: str
    options: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        checkpoint: Path,
        training: StoredExamples,
        validation: StoredExamples | None,
        options: FinetuningOptions,
    ) -> Self:
        """Return the identity of a run that is about to start."""
        base = asdict(BaseIdentity.of(checkpoint))
        chosen = {name: value for name, value in asdict(options).items() if name not in FREE_OPTIONS}
        return cls(
            base={name: value for name, value in base.items() if name != "name"},
            training_data=_digest(training),
            validation_data=_digest(validation),
            options=chosen,
        )

    def write(self, resume_point: Path) -> None:
        """Record the identity in a resume point."""
        (resume_point / RUN_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def require_same(self, resume_point: Path) -> None:
        """Make sure that a resume point is one of this run.

        Raises:
            CheckpointError: It is one of another run; the message says what differs.
        """
        try:
            recorded = json.loads((resume_point / RUN_FILE).read_text(encoding="utf-8"))
            differences = self._differences(recorded)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"{resume_point.name} does not record the run that wrote it ({RUN_FILE}: {error}); start without it"
            ) from error
        if differences:
            raise CheckpointError(
                f"{resume_point.name} belongs to another run: {'; '.join(differences)}. Resume with what it was"
                " started with, or start without it"
            )

    def _differences(self, recorded: dict[str, Any]) -> list[str]:
        mine = json.loads(json.dumps(asdict(self)))
        found = [
            f"the {label} is different"
            for name, label in (
                ("base", "base checkpoint"),
                ("training_data", "training data"),
                ("validation_data", "validation data"),
            )
            if recorded[name] != mine[name]
        ]
        theirs, ours = recorded["options"], mine["options"]
        return found + [
            f"{name} was {theirs.get(name)!r} and is now {ours.get(name)!r}"
            for name in sorted({*theirs, *ours})
            if theirs.get(name) != ours.get(name)
        ]


def _digest(examples: StoredExamples | None) -> str:
    digest = hashlib.sha256()
    for example in examples.arrays() if examples is not None else ():
        for values in example:
            digest.update(np.concatenate(([len(values)], values), dtype=np.int64).tobytes())
    return digest.hexdigest()
