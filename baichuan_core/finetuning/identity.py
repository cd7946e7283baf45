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
from baichuan_core.finetuning.distributed.distribution import SINGLE, Plan
from baichuan_core.finetuning.example_store import StoredExamples
from baichuan_core.finetuning.options import FinetuningOptions

RUN_FILE = "baichuan_run.json"
BATCH_OPTIONS = ("batch_size", "gradient_accumulation_steps")
# Strategies whose resume points have the same files.
FILE_KINDS = {
    "single": "one",
    "ddp": "one",
    "fsdp2": "fsdp2",
    "zero2": "zero2",
    "zero3": "zero3",
    "zero3-offload": "zero3",
}
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
        strategy: How the ranks share the work.
        processes: Number of ranks.
    """

    base: Mapping[str, Any]
    training_data: str
    validation_data: str
    options: Mapping[str, Any]
    strategy: str = "single"
    processes: int = 1

    @classmethod
    def of(
        cls,
        checkpoint: Path,
        training: StoredExamples,
        validation: StoredExamples | None,
        options: FinetuningOptions,
        plan: Plan = SINGLE,
    ) -> Self:
        """Return the identity of a run that is about to start."""
        base = asdict(BaseIdentity.from_checkpoint(checkpoint))
        chosen = {name: value for name, value in asdict(options).items() if name not in FREE_OPTIONS}
        return cls(
            base={name: value for name, value in base.items() if name != "name"},
            training_data=_digest(training),
            validation_data=_digest(validation),
            options=chosen,
            strategy=plan.strategy,
            processes=plan.world_size,
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
            differences = self.find_differences(recorded, json.loads(json.dumps(asdict(self))))
            differences += find_unusable_files(recorded, self.strategy, self.processes)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"{resume_point.name} does not record the run that wrote it ({RUN_FILE}: {error}); start without it"
            ) from error
        if differences:
            raise CheckpointError(
                f"{resume_point.name} belongs to another run: {'; '.join(differences)}. Resume with what it was"
                " started with, or start without it"
            )

    @staticmethod
    def find_differences(recorded: dict[str, Any], current: dict[str, Any]) -> list[str]:
        """Return what differs between two identities as JSON, in words.

        Processes, batch size and accumulation may differ if every step has as many examples.
        """
        found = [
            f"the {label} is different"
            for name, label in (
                ("base", "base checkpoint"),
                ("training_data", "training data"),
                ("validation_data", "validation data"),
            )
            if recorded[name] != current[name]
        ]
        before, now = recorded["options"], current["options"]
        names = {*before, *now}
        if recorded.get("processes", 1) != current["processes"]:
            names -= {*BATCH_OPTIONS}
            steps = examples_per_step(recorded), examples_per_step(current)
            if steps[0] != steps[1]:
                found.append(
                    f"a step had {steps[0]} examples and has now {steps[1]} (batch_size * gradient_accumulation_steps *"
                    " processes)"
                )
        return found + [
            f"{name} was {before.get(name)!r} and is now {now.get(name)!r}"
            for name in sorted(names)
            if before.get(name) != now.get(name)
        ]


def examples_per_step(identity: Mapping[str, Any]) -> int:
    """Return how many examples of the data one step of the optimizer has, on all ranks together."""
    options = identity["options"]
    return int(options["batch_size"] * options["gradient_accumulation_steps"] * identity.get("processes", 1))


def find_unusable_files(recorded: Mapping[str, Any], strategy: str, processes: int) -> list[str]:
    """Return why the files of a resume point cannot be read by a strategy, in words.

    `single` and `ddp` write the same files. Those of `fsdp2` can be read by any number of processes, those of ZeRO only
    by as many as wrote them.
    """
    before = recorded.get("strategy", "single")
    if FILE_KINDS[before] != FILE_KINDS[strategy]:
        return [f"strategy was {before!r} and is now {strategy!r}, which reads other files"]
    if FILE_KINDS[strategy].startswith("zero") and (count := recorded["processes"]) != processes:
        return [f"there were {count} processes and are now {processes}, and ZeRO needs as many as before"]
    return []


def _digest(examples: StoredExamples | None) -> str:
    digest = hashlib.sha256()
    for example in examples.arrays() if examples is not None else ():
        for values in example:
            digest.update(np.concatenate(([len(values)], values), dtype=np.int64).tobytes())
    return digest.hexdigest()
