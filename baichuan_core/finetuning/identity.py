"""The identity of a run, recorded in its resume points so that only the same run can resume from them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from baichuan_core.checkpoint.base_identity import BaseIdentity
from baichuan_core.errors import CheckpointError
from baichuan_core.finetuning.distributed.distribution import SINGLE_PROCESS_PLAN, DistributionPlan
from baichuan_core.finetuning.example_store import StoredExamples
from baichuan_core.finetuning.options import FinetuningOptions

RUN_IDENTITY_FILE = "baichuan_run.json"
BATCH_OPTIONS = ("batch_size", "gradient_accumulation_steps")
# Strategies with the same value write the same files to resume points.
RESUME_POINT_FORMATS = {
    "single": "one",
    "ddp": "one",
    "fsdp2": "fsdp2",
    "zero2": "zero2",
    "zero3": "zero3",
    "zero3-offload": "zero3",
}
# Options that may change when a run resumes, because they do not affect the weights.
CHANGEABLE_OPTIONS = ("device", "logging_steps", "save_strategy", "save_steps", "save_total_limit", "tf32", "report_to")


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """The base, data and options of a run, as JSON values.

    Attributes:
        base: Sizes and a sample of the weights of the base checkpoint.
        training_data: Hash of the encoded training examples.
        validation_data: Hash of the encoded validation examples.
        options: The options that affect the weights.
        strategy: The strategy of the distribution.
        processes: Number of ranks.
    """

    base: Mapping[str, Any]
    training_data: str
    validation_data: str
    options: Mapping[str, Any]
    strategy: str = "single"
    processes: int = 1

    @classmethod
    def from_inputs(
        cls,
        checkpoint: Path,
        training: StoredExamples,
        validation: StoredExamples | None,
        options: FinetuningOptions,
        plan: DistributionPlan = SINGLE_PROCESS_PLAN,
    ) -> Self:
        """Return the identity of a run that is about to start."""
        base = asdict(BaseIdentity.from_checkpoint(checkpoint))
        chosen = {name: value for name, value in asdict(options).items() if name not in CHANGEABLE_OPTIONS}
        return cls(
            base={name: value for name, value in base.items() if name != "name"},
            training_data=_hash_examples(training),
            validation_data=_hash_examples(validation),
            options=chosen,
            strategy=plan.strategy,
            processes=plan.world_size,
        )

    def write(self, resume_point: Path) -> None:
        """Record the identity in a resume point."""
        (resume_point / RUN_IDENTITY_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def require_same_run(self, resume_point: Path) -> None:
        """Check that a resume point belongs to this run.

        Raises:
            CheckpointError: It belongs to another run; the message lists the differences.
        """
        try:
            recorded = json.loads((resume_point / RUN_IDENTITY_FILE).read_text(encoding="utf-8"))
            differences = self.find_differences(recorded, json.loads(json.dumps(asdict(self))))
            differences += find_incompatibilities(recorded, self.strategy, self.processes)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"{resume_point.name} has no valid record of its run ({RUN_IDENTITY_FILE}: {error});"
                " start without this resume point"
            ) from error
        if differences:
            raise CheckpointError(
                f"{resume_point.name} belongs to another run: {'; '.join(differences)}. Resume with the inputs and"
                " options of that run, or start without a resume point"
            )

    @staticmethod
    def find_differences(recorded: dict[str, Any], current: dict[str, Any]) -> list[str]:
        """Return messages that describe the differences between two identities, given as JSON values.

        Processes, batch size and accumulation may differ if the number of examples per step is the same.
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
            steps = count_examples_per_step(recorded), count_examples_per_step(current)
            if steps[0] != steps[1]:
                found.append(
                    f"each step had {steps[0]} examples and now has {steps[1]} (batch_size *"
                    " gradient_accumulation_steps * processes)"
                )
        return found + [
            f"{name} was {before.get(name)!r} and is now {now.get(name)!r}"
            for name in sorted(names)
            if before.get(name) != now.get(name)
        ]


def count_examples_per_step(identity: Mapping[str, Any]) -> int:
    """Return the number of examples per optimizer step, over all ranks."""
    options = identity["options"]
    return int(options["batch_size"] * options["gradient_accumulation_steps"] * identity.get("processes", 1))


def find_incompatibilities(recorded: Mapping[str, Any], strategy: str, processes: int) -> list[str]:
    """Return messages that explain why a strategy cannot read a resume point's files.

    `single` and `ddp` write the same files. Any number of processes can read the files of `fsdp2`; those of ZeRO can be
    read only by the same number of processes that wrote them.
    """
    before = recorded.get("strategy", "single")
    if RESUME_POINT_FORMATS[before] != RESUME_POINT_FORMATS[strategy]:
        return [f"strategy was {before!r} and is now {strategy!r}, which uses different files"]
    if RESUME_POINT_FORMATS[strategy].startswith("zero") and (count := recorded["processes"]) != processes:
        return [f"there were {count} processes and now there are {processes}, but ZeRO requires the same number"]
    return []


def _hash_examples(examples: StoredExamples | None) -> str:
    digest = hashlib.sha256()
    for example in examples.iterate_arrays() if examples is not None else ():
        for values in example:
            digest.update(np.concatenate(([len(values)], values), dtype=np.int64).tobytes())
    return digest.hexdigest()
