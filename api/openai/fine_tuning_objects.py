"""OpenAI's fine-tuning job objects, built from our finetune jobs."""

import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field

from api.schemas.dry_runs import DryRunObject
from api.schemas.jobs import JobSummary
from api.schemas.pages import IdentifiedObject
from api.schemas.times import to_optional_seconds, to_seconds
from jobs.records import EventRecord, JobDetails, Json, KeyRecord
from jobs.service.openai_jobs import PublishedJob
from jobs.state import JobState

AUTO = "auto"
MODEL_FOLDER = "model/"  # the artifact folder that contains the model itself

FineTuningStatus = Literal["validating_files", "queued", "running", "succeeded", "failed", "cancelled"]
STATUS_BY_STATE: Mapping[JobState, FineTuningStatus] = {
    JobState.QUEUED: "queued",
    JobState.DISPATCHED: "queued",
    JobState.PAUSED: "queued",
    JobState.RUNNING: "running",
    JobState.PAUSING: "running",
    JobState.CANCELLING: "running",
    JobState.SUCCEEDED: "succeeded",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}


class FineTuningErrorObject(BaseModel):
    """The reason why a job has failed."""

    code: str
    message: str
    param: str | None = None


class HyperparametersObject(BaseModel):
    """Hyperparameters; each `auto` is replaced by its value once the job has started."""

    batch_size: Literal["auto"] | int | None
    learning_rate_multiplier: Literal["auto"] | float | None = Field(
        description="Factor for the learning rate of `baichuan` or the preset; null for jobs made through another API"
    )
    n_epochs: Literal["auto"] | int | None = Field(description="null if the number of epochs is not whole")


class SupervisedMethodObject(BaseModel):
    """The supervised method."""

    hyperparameters: HyperparametersObject


class MethodObject(BaseModel):
    """The training method."""

    type: Literal["supervised"] = "supervised"
    supervised: SupervisedMethodObject


class FineTuningJobObject(IdentifiedObject):
    """A fine-tuning job."""

    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    error: FineTuningErrorObject | None
    fine_tuned_model: str | None
    finished_at: int | None
    hyperparameters: HyperparametersObject
    method: MethodObject
    model: str
    organization_id: str
    result_files: list[str]
    status: FineTuningStatus
    seed: int
    trained_tokens: int | None
    training_file: str
    validation_file: str | None
    estimated_finish: int | None
    integrations: list[Json] = Field(default_factory=list)
    metadata: dict[str, str] | None
    user_provided_suffix: str | None
    baichuan: Annotated[JobSummary | DryRunObject, Field(description="The job itself, with its true state")]

    @classmethod
    def from_job(cls, published: PublishedJob, caller: KeyRecord) -> Self:
        """Return a finetune job as clients of OpenAI's API see it."""
        job, summary = published.job, JobSummary.from_record(published.job, caller)
        is_done = job.state is JobState.SUCCEEDED
        loose = [each.id for each in published.artifacts if not each.path.startswith(MODEL_FOLDER)]
        return cls(
            id=job.id,
            created_at=to_seconds(job.created_at),
            error=find_failure(job),
            fine_tuned_model=summary.model if is_done else None,
            finished_at=to_optional_seconds(job.finished_at),
            result_files=loose if is_done else [],
            status=STATUS_BY_STATE[job.state],
            trained_tokens=_count_trained_tokens(job),
            estimated_finish=_estimate_finish_time(job),
            baichuan=summary,
            **_build_fields_from_spec(job.spec, job.openai or {}, caller, has_started=job.started_at is not None),
        )

    @classmethod
    def from_dry_run(cls, spec: Json, openai: Json, caller: KeyRecord, found: DryRunObject) -> Self:
        """Return the object for a dry run, which creates no job."""
        return cls(
            id="dry-run",
            created_at=int(time.time()),
            error=None,
            fine_tuned_model=None,
            finished_at=None,
            result_files=[],
            status="validating_files",
            trained_tokens=None,
            estimated_finish=None,
            baichuan=found,
            **_build_fields_from_spec(spec, openai, caller, has_started=False),
        )


class FineTuningEventObject(IdentifiedObject):
    """An event of a fine-tuning job."""

    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: Json

    @classmethod
    def from_event(cls, event: EventRecord) -> Self:
        """Convert a job's event of type `state` or `progress`."""
        is_progress = event.type == "progress"
        return cls(
            id=f"{event.job_id}:{event.sequence}",
            created_at=to_seconds(event.created_at),
            level="info" if is_progress else _choose_event_level(event.data),
            message=_describe_progress(event.data) if is_progress else _describe_state(event.data),
            type="metrics" if is_progress else "message",
            data=_rename_metrics(event.data) if is_progress else event.data,
        )


class FineTuningCheckpointObject(IdentifiedObject):
    """A model that a fine-tuning job has produced."""

    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: Json
    step_number: int

    @classmethod
    def list_from_job(cls, job: JobDetails, caller: KeyRecord) -> list[Self]:
        """Return the checkpoints of a job: only its resulting model, once the job has succeeded."""
        model = JobSummary.from_record(job, caller).model
        if job.state is not JobState.SUCCEEDED or job.result is None or model is None:
            return []
        result = job.result
        step = int(result.get("best_step") or result.get("steps") or 0)
        metrics = {
            "step": step,
            "train_loss": result.get("final_loss"),
            "full_valid_loss": result.get("best_eval_loss"),
        }
        return [
            cls(
                id=f"{job.id}:checkpoint-{step}",
                created_at=to_seconds(job.finished_at or job.created_at),
                fine_tuned_model_checkpoint=model,
                fine_tuning_job_id=job.id,
                metrics={name: value for name, value in metrics.items() if value is not None},
                step_number=step,
            )
        ]


def find_failure(job: JobDetails) -> FineTuningErrorObject | None:
    """Return the error of a failed job, or None for any other job, even if one of its attempts has failed."""
    if job.state is not JobState.FAILED:
        return None
    error = job.error or {}
    code, message = str(error.get("code", "failed")), str(error.get("message", "the job has failed"))
    return FineTuningErrorObject(code=code, message=message)


def _build_fields_from_spec(spec: Json, openai: Json, caller: KeyRecord, *, has_started: bool) -> dict[str, Any]:
    hyperparameters = _build_hyperparameters(spec, openai, has_started=has_started)
    return {
        "hyperparameters": hyperparameters,
        "method": MethodObject(supervised=SupervisedMethodObject(hyperparameters=hyperparameters)),
        "model": str(openai.get("model", spec.get("model"))),
        "organization_id": caller.project,
        "seed": int(spec.get("seed", 0)),
        "training_file": str(spec.get("training_file")),
        "validation_file": spec.get("validation_file"),
        "metadata": openai.get("metadata"),
        "user_provided_suffix": openai.get("suffix"),
    }


def _build_hyperparameters(spec: Json, openai: Json, *, has_started: bool) -> HyperparametersObject:
    epochs = spec.get("epochs")
    values: dict[str, Any] = {
        "batch_size": spec.get("batch_size"),
        "learning_rate_multiplier": openai.get("learning_rate_multiplier"),
        "n_epochs": int(epochs) if epochs is not None and float(epochs).is_integer() else None,
    }
    if not has_started:
        values |= dict.fromkeys(openai.get("auto", ()), AUTO)
    return HyperparametersObject(**values)


def _count_trained_tokens(job: JobDetails) -> int | None:
    """Return the number of tokens trained on, counting an example once per epoch."""
    if job.state is not JobState.SUCCEEDED or job.result is None:
        return None
    metrics = (job.progress or {}).get("metrics") or {}
    epochs = metrics.get("epoch") or job.spec.get("epochs") or 1
    return round(int(job.result.get("tokens") or 0) * float(epochs))


def _estimate_finish_time(job: JobDetails) -> int | None:
    left = ((job.progress or {}).get("metrics") or {}).get("eta_seconds")
    return None if left is None or job.state is not JobState.RUNNING else int(time.time() + float(left))


def _choose_event_level(data: Json) -> Literal["info", "warn", "error"]:
    if data.get("to") == JobState.FAILED:
        return "error"
    return "warn" if data.get("error") else "info"


def _describe_state(data: Json) -> str:
    error = data.get("error") or {}
    reason = f": {error['message']}" if error.get("message") else ""
    return f"The job is {data.get('to')}{reason}"


def _describe_progress(data: Json) -> str:
    metrics = data.get("metrics") or {}
    if "step" not in metrics:
        return f"{str(data.get('stage') or 'working').capitalize()}, {data.get('fraction', 0):.0%} done"
    names = {"loss": "training loss", "eval_loss": "validation loss"}
    losses = [f"{shown}={metrics[name]:.4g}" for name, shown in names.items() if metrics.get(name) is not None]
    return f"Step {metrics['step']:.0f}/{metrics.get('steps', 0):.0f}: {', '.join(losses)}"


def _rename_metrics(data: Json) -> Json:
    """Return the metrics of a progress event under OpenAI's names."""
    metrics: Mapping[str, Any] = data.get("metrics") or {}
    names = {"loss": "train_loss", "eval_loss": "valid_loss", "steps": "total_steps"}
    return {names.get(name, name): value for name, value in metrics.items()}
