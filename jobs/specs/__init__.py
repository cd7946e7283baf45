"""Job specs: one pydantic model per kind of job, distinguished by `kind`."""

from typing import Annotated, get_args

from pydantic import Field, TypeAdapter

from jobs.specs.convert import ConvertSpec
from jobs.specs.evaluate import EvaluateSpec
from jobs.specs.finetune import FinetuneSpec
from jobs.specs.generate import GenerateSpec
from jobs.specs.job_spec import JobSpec, ModelInputSpec
from jobs.specs.model_properties import ModelProperties
from jobs.specs.preview import PreviewSpec
from jobs.specs.pull import PullSpec
from jobs.specs.quantize import QuantizeSpec
from jobs.specs.resources import Resources
from jobs.specs.serve import ServeSpec
from jobs.specs.stored_generate import InlineInput, OpenAIBatch, StoredGenerateSpec, has_long_input, split_off_input
from jobs.specs.suitability import AdapterUse, ChosenModel, Incompatibility

AnySpec = Annotated[
    GenerateSpec | QuantizeSpec | ConvertSpec | FinetuneSpec | EvaluateSpec | PreviewSpec | PullSpec | ServeSpec,
    Field(discriminator="kind"),
]

# The spec as stored in rows and passed to workers and runners, including fields that clients cannot send.
StoredSpec = Annotated[
    StoredGenerateSpec | QuantizeSpec | ConvertSpec | FinetuneSpec | EvaluateSpec | PreviewSpec | PullSpec | ServeSpec,
    Field(discriminator="kind"),
]

SPEC_ADAPTER: TypeAdapter[AnySpec] = TypeAdapter(AnySpec)
STORED_SPEC_ADAPTER: TypeAdapter[StoredSpec] = TypeAdapter(StoredSpec)
KINDS: tuple[str, ...] = ("generate", "quantize", "convert", "finetune", "evaluate", "preview", "pull", "serve")
PAUSABLE_KINDS = frozenset(
    get_args(spec.model_fields["kind"].annotation)[0] for spec in get_args(get_args(AnySpec)[0]) if spec.can_pause
)

__all__ = [
    "KINDS",
    "PAUSABLE_KINDS",
    "SPEC_ADAPTER",
    "STORED_SPEC_ADAPTER",
    "AdapterUse",
    "AnySpec",
    "ChosenModel",
    "ConvertSpec",
    "EvaluateSpec",
    "FinetuneSpec",
    "GenerateSpec",
    "Incompatibility",
    "InlineInput",
    "JobSpec",
    "ModelInputSpec",
    "ModelProperties",
    "OpenAIBatch",
    "PreviewSpec",
    "PullSpec",
    "QuantizeSpec",
    "Resources",
    "ServeSpec",
    "StoredGenerateSpec",
    "StoredSpec",
    "has_long_input",
    "split_off_input",
]
