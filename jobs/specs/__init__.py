"""What a user can ask for: one pydantic model a job kind, told apart by `kind`."""

from typing import Annotated

from pydantic import Field, TypeAdapter

from jobs.specs.convert import ConvertSpec
from jobs.specs.evaluate import EvaluateSpec
from jobs.specs.finetune import FinetuneSpec
from jobs.specs.generate import GenerateSpec
from jobs.specs.job_spec import JobSpec
from jobs.specs.known_model import KnownModel
from jobs.specs.quantize import QuantizeSpec
from jobs.specs.resources import Resources
from jobs.specs.suitability import AdapterUse, ChosenModel, Misfit

AnySpec = Annotated[
    GenerateSpec | QuantizeSpec | ConvertSpec | FinetuneSpec | EvaluateSpec, Field(discriminator="kind")
]

SPEC: TypeAdapter[AnySpec] = TypeAdapter(AnySpec)
KINDS: tuple[str, ...] = ("generate", "quantize", "convert", "finetune", "evaluate")

__all__ = [
    "KINDS",
    "SPEC",
    "AdapterUse",
    "AnySpec",
    "ChosenModel",
    "ConvertSpec",
    "EvaluateSpec",
    "FinetuneSpec",
    "GenerateSpec",
    "JobSpec",
    "KnownModel",
    "Misfit",
    "QuantizeSpec",
    "Resources",
]
