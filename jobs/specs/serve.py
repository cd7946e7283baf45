"""Load a model and answer chats with it."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from footprint import Footprint
from jobs.specs.engines import EngineChoice, estimate_open_batch, find_engine_misfit
from jobs.specs.fields import Dtype, ModelName
from jobs.specs.job_spec import JobSpec
from jobs.specs.known_model import KnownModel
from jobs.specs.suitability import AdapterUse, ChosenModel, Misfit

MONTH_SECONDS = 2_592_000


class ServeSpec(JobSpec):
    """Load a model and answer chats, until none has come for a while; then the model stays loaded as after any job."""

    produces_model: ClassVar[bool] = False
    runs_gguf: ClassVar[bool] = True
    hands_over: ClassVar[bool] = True

    kind: Literal["serve"]
    adapter: ModelName | None = Field(None, description="A LoRA adapter model to apply to `model`")
    engine: EngineChoice = Field(
        "auto", description="What runs the model; auto takes the fastest that can, and the result says which and why"
    )
    batch_size: int = Field(32, ge=1, le=256, description="Most completions that are written side by side")
    idle_seconds: float = Field(
        60, ge=0, le=86_400, description="The job succeeds when no chat has come for this long; 0: once it is loaded"
    )
    dtype: Dtype = "auto"
    max_attempts: int = Field(2, ge=1, le=10, description="How often a job whose worker is lost is started again")
    timeout_seconds: int = Field(MONTH_SECONDS, ge=1, le=MONTH_SECONDS, description="How long one attempt may run")

    def model_references(self) -> dict[str, str]:
        """See `JobSpec.model_references`."""
        adapter = {"adapter": self.adapter} if self.adapter else {}
        return {"model": self.model, **adapter}

    @property
    def loaded_dtype(self) -> Dtype:
        """See `JobSpec.loaded_dtype`."""
        return self.dtype

    @property
    def adapter_use(self) -> AdapterUse:
        """See `JobSpec.adapter_use`."""
        return AdapterUse.OPTIONAL

    def find_misfit(self, model: ChosenModel) -> Misfit | None:
        """See `JobSpec.find_misfit`."""
        return find_engine_misfit(model, self.engine, self.dtype)

    def footprints(self, model: KnownModel, *, on_gpu: bool = True) -> Sequence[Footprint]:  # noqa: ARG002 - the same anywhere
        """See `JobSpec.footprints`; chats of any length may come, and as many as run at the same time."""
        window = model.shape.context_length
        prompts = [window] * self.batch_size
        return [estimate_open_batch(model, self.dtype, prompts, max_new_tokens=1, batch_size=self.batch_size)]
