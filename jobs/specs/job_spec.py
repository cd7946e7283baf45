"""Base classes for all job specs."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from footprint import Footprint
from jobs.specs.fields import Dtype, LabelKey, LabelValue, ModelName, StrictModel
from jobs.specs.model_properties import ModelProperties
from jobs.specs.resources import Resources
from jobs.specs.suitability import AdapterUse, ChosenModel, Incompatibility


class JobSpec(StrictModel):
    """The fields that all kinds of jobs have."""

    produces_model: ClassVar[bool] = True
    runs_gguf: ClassVar[bool] = False
    exclusive: ClassVar[bool] = False  # whether a job has its devices to itself unless `resources.share` is set
    can_pause: ClassVar[bool] = False  # whether a job saves a resume point before it releases its devices
    uses_hub: ClassVar[bool] = False  # whether a job may use the worker's token for a model hub
    hands_over: ClassVar[bool] = False  # whether a job finishes its open chats before it releases its devices
    max_devices: ClassVar[int] = 1
    max_nodes: ClassVar[int] = 1

    priority: int = Field(0, ge=-100, le=100, description="Jobs with a higher priority run first")
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=16)
    max_attempts: int = Field(3, ge=1, le=10, description="Maximum number of attempts if workers are lost")
    timeout_seconds: int = Field(86_400, ge=1, le=2_592_000, description="How long one attempt may run")

    resources: Resources | None = Field(None, description="Where the job may run; by default, wherever its memory fits")

    @model_validator(mode="after")
    def _check_resources(self) -> Self:
        asked = self.resources
        if asked is not None and (asked.devices or 0) > self.max_devices:
            raise ValueError(
                f"resources.devices is {asked.devices}, but this kind of job uses at most {self.max_devices}"
            )
        if asked is not None and asked.nodes > self.max_nodes:
            raise ValueError(f"resources.nodes is {asked.nodes}, but this kind of job runs on at most {self.max_nodes}")
        return self

    @property
    @abstractmethod
    def source(self) -> str:
        """The model or repository that the job starts from, shown in lists."""

    def list_model_references(self) -> dict[str, str]:
        """Return the models that the spec names, by field."""
        return {}

    def list_file_references(self) -> dict[str, str]:
        """Return the uploaded files that the spec names, by field."""
        return {}

    def with_input(self, files: Mapping[str, Path]) -> Self:  # noqa: ARG002 - only generate specs have such an input
        """Return the spec with its inline input filled in from `files`, if the input was stored as a file."""
        return self

    @property
    def loaded_dtype(self) -> Dtype | None:
        """The dtype in which the job loads `model` for inference; None if the job does not load it."""
        return None

    @property
    def packages(self) -> Sequence[str]:
        """The optional Python packages that a worker must have to run the job."""
        return ()

    def estimate_footprints(self, model: ModelProperties, *, on_gpu: bool = True) -> Sequence[Footprint]:  # noqa: ARG002
        """Return the memory that each step needs for the largest inputs the spec allows; short inputs may need less.

        Args:
            model: A model, not an adapter, that the spec names; this method is called for each of them.
            on_gpu: Whether the job runs on a GPU.
        """
        return []

    def list_alternatives(self, *, on_gpu: bool, sharded: bool) -> Sequence[Self]:  # noqa: ARG002 - see `FinetuneSpec`
        """Return the ways to run the job, preferred first; the first one that fits the pool determines the requirement.

        Args:
            on_gpu: Whether the job runs on GPUs.
            sharded: Whether the weights of its model may be divided among devices; quantized ones may not.
        """
        return [self]

    def output_name(self) -> str | None:
        """Return the id for the resulting model, if the user chose one."""
        return None


class ModelInputSpec(JobSpec):
    """Base class for the specs of jobs that read a model."""

    model: ModelName

    @property
    def source(self) -> str:
        """See `JobSpec.source`."""
        return self.model

    def list_model_references(self) -> dict[str, str]:
        """See `JobSpec.list_model_references`."""
        return {"model": self.model}

    @abstractmethod
    def estimate_footprints(self, model: ModelProperties, *, on_gpu: bool = True) -> Sequence[Footprint]:
        """See `JobSpec.estimate_footprints`."""

    @property
    def adapter_use(self) -> AdapterUse:
        """Whether the job refuses, allows or requires a LoRA adapter."""
        return AdapterUse.REFUSED

    def find_incompatibility(self, model: ChosenModel) -> Incompatibility | None:  # noqa: ARG002 - most kinds run any model
        """Return the reason why the job cannot run on this model, if known; its message continues "model X ..."."""
        return None


class ModelOutputSpec(JobSpec):
    """Base class for the specs of jobs whose result is a model that later jobs can name."""

    output_model: ModelName | None = Field(None, description="Id of the resulting model; the job's id by default")

    def output_name(self) -> str | None:
        """See `JobSpec.output_name`."""
        return self.output_model
