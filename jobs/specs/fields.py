"""What all job specs share: the common fields and the bounded types they are built from."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from footprint import Footprint
from jobs.specs.known_model import KnownModel
from jobs.specs.suitability import AdapterUse, ChosenModel, Misfit

MODEL_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*$"


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold NUL characters (U+0000); remove them")
    return text


WITHOUT_NUL = AfterValidator(_without_nul)  # PostgreSQL's JSON cannot hold NUL
ModelName = Annotated[
    str,
    StringConstraints(pattern=MODEL_NAME_PATTERN, max_length=128),
    Field(description="A model id: letters, digits, '-', '_', with single '.' or '/' between them"),
]
FileId = Annotated[str, StringConstraints(pattern=r"^file-[0-9a-z]{26}$")]
LabelKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
LabelValue = Annotated[str, StringConstraints(max_length=128), WITHOUT_NUL]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class StrictModel(BaseModel):
    """A frozen model that refuses fields it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class JobSpec(StrictModel):
    """What every kind of job is asked with."""

    produces_model: ClassVar[bool] = True
    runs_gguf: ClassVar[bool] = False

    model: ModelName
    priority: int = Field(0, ge=-100, le=100, description="Higher goes first")
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=16)
    max_attempts: int = Field(3, ge=1, le=10, description="How often a job whose worker is lost is started again")
    timeout_seconds: int = Field(86_400, ge=1, le=2_592_000, description="How long one attempt may run")

    def model_references(self) -> dict[str, str]:
        """The models that the spec names, by field."""
        return {"model": self.model}

    def file_references(self) -> dict[str, str]:
        """The uploaded files that the spec names, by field."""
        return {}

    @abstractmethod
    def footprints(self, model: KnownModel, *, on_gpu: bool = True) -> Sequence[Footprint]:
        """What each step takes at the limits of the spec, where the shortest inputs may need less.

        Args:
            model: A whole model that the spec names; it is asked about each of them.
            on_gpu: Whether the job runs on a GPU.
        """

    def output_name(self) -> str | None:
        """The id that the resulting model shall have, if the user chose one."""
        return None

    @property
    def adapter_use(self) -> AdapterUse:
        """What the job does with a LoRA adapter."""
        return AdapterUse.REFUSED

    def find_misfit(self, model: ChosenModel) -> Misfit | None:  # noqa: ARG002 - most kinds run any
        """Say why the job cannot run on this model, if that is known; the message continues "model X ..."."""
        return None


class ModelProducingSpec(JobSpec):
    """A spec whose result is a model that later jobs can name."""

    output_model: ModelName | None = Field(None, description="Id of the resulting model; the job's id by default")

    def output_name(self) -> str | None:
        """See `JobSpec.output_name`."""
        return self.output_model
