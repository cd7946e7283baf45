"""/v1/fine_tuning/jobs: fine-tuning jobs in the format of OpenAI's API."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import AfterValidator, Field, StringConstraints

from api.dependencies import Caller, CurrentCaller
from api.json_bodies import OpenAIRoute
from api.openai.bodies import RequestBody, Unsupported, apply_check
from api.openai.extension import Extension, SpecFields
from api.openai.fine_tuning_objects import AUTO, FineTuningCheckpointObject, FineTuningEventObject, FineTuningJobObject
from api.openai.queries import LIST_PARAMETERS, METADATA_PARAMETERS, read_query
from api.openai.submissions import WantedJob, choose_model, get_or_create_job, preview_job
from api.responses import json_response
from api.schemas.dry_runs import DryRunObject
from api.schemas.pages import Page
from jobs.errors import InvalidRequestError, UnknownCursorError
from jobs.identifiers import new_id
from jobs.inputs import make_neutral_check
from jobs.records import JobDetails, JobFilter
from jobs.service import jobs, openai_jobs
from jobs.service.openai_jobs import PublishedJob
from jobs.specs import FinetuneSpec
from jobs.specs.fields import FileId, Metadata, ModelName, Seed

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["openai"], route_class=OpenAIRoute)

JOB_KIND = "finetune"
EVENT_TYPES = ("state", "progress")
DEFAULT_PRESET = "recommended"  # preset that provides the `auto` values
MODEL_SUFFIX_PATTERN = r"^[A-Za-z0-9_-]+([./][A-Za-z0-9_-]+)*$"
MAX_MODEL_NAME_LENGTH = 128
ID_SUFFIX_LENGTH = 8  # the model's name ends with this many characters of the job's id
# Spec fields mapped to the OpenAI parameters that set them, if the names differ.
PARAMETER_NAMES = {
    "epochs": "method.supervised.hyperparameters.n_epochs",
    "batch_size": "method.supervised.hyperparameters.batch_size",
}
# Fields that `baichuan` cannot set, mapped to the parameters that set them, if any.
PROTECTED_FIELDS = {
    "kind": None,
    "model": "model",
    "training_file": "training_file",
    "validation_file": "validation_file",
    "seed": "seed",
    **PARAMETER_NAMES,
}


def _check_auto_or_count(value: Any) -> Any:
    if value != AUTO and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError("must be 'auto' or an integer of at least 1")
    return value


def _check_auto_or_factor(value: Any) -> Any:
    if value != AUTO and (not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1e6):  # noqa: PLR2004
        raise ValueError("must be 'auto' or a number above 0 and at most 1000000")
    return value


AutoOrCount = Annotated[
    Any,
    AfterValidator(_check_auto_or_count),
    Field(json_schema_extra={"anyOf": [{"const": AUTO}, {"type": "integer"}]}),
]
AutoOrFactor = Annotated[
    Any,
    AfterValidator(_check_auto_or_factor),
    Field(json_schema_extra={"anyOf": [{"const": AUTO}, {"type": "number"}]}),
]


class Hyperparameters(RequestBody):
    """Hyperparameters, where `auto` means the preset's value; the job shows that value once it has started."""

    batch_size: AutoOrCount = AUTO
    learning_rate_multiplier: AutoOrFactor = AUTO
    n_epochs: AutoOrCount = AUTO


class SupervisedMethod(RequestBody):
    """Settings for the supervised method."""

    hyperparameters: Hyperparameters = Hyperparameters()


class Method(RequestBody):
    """The training method."""

    type: Literal["supervised"]
    supervised: SupervisedMethod = SupervisedMethod()
    dpo: Unsupported = None
    reinforcement: Unsupported = None


class FineTuningBody(RequestBody):
    """A fine-tuning job to create."""

    model: ModelName
    training_file: FileId
    validation_file: FileId | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = Field(None, description="Deprecated in OpenAI's API: use `method`")
    suffix: Annotated[str, StringConstraints(pattern=MODEL_SUFFIX_PATTERN, max_length=64)] | None = Field(
        None, description="Part of the model's name, which is model/suffix/<end of the job's id>"
    )
    seed: Seed | None = None
    metadata: Metadata | None = None
    integrations: Annotated[object, apply_check(make_neutral_check([]))] = None
    baichuan: Extension = Field(Extension(), description="Other fields of a finetune spec, such as `lora_rank`")


@router.post("", response_model=FineTuningJobObject)
async def create(body: FineTuningBody, request: Request, caller: CurrentCaller) -> Response:
    """Create a fine-tuning job. If the client retries because the response was lost, no second job is created."""
    wanted = await _build_wanted_job(body, caller)
    if body.baichuan.dry_run:
        found = DryRunObject.from_preview(await preview_job(caller, wanted))
        spec = wanted.spec.model_dump(mode="json")
        return json_response(FineTuningJobObject.from_dry_run(spec, wanted.openai, caller.key, found))
    return _build_response(await get_or_create_job(caller, request, body, wanted), caller)


@router.get("", response_model=Page[FineTuningJobObject], openapi_extra=METADATA_PARAMETERS)
async def list_jobs(request: Request, caller: CurrentCaller) -> Response:
    """List all finetune jobs of the project, newest first, however they were created."""
    query = read_query(request, by_metadata=True)
    wanted = JobFilter(kind=JOB_KIND, metadata=query.metadata)
    found = await caller.service.reader.run(
        lambda c: openai_jobs.list_page(c, caller.project_id, wanted, after=query.after, limit=query.limit + 1)
    )
    objects = [FineTuningJobObject.from_job(job, caller.key) for job in found]
    return json_response(Page[FineTuningJobObject].from_items(objects, query.limit))


@router.get("/{job_id}", response_model=FineTuningJobObject)
async def get(job_id: str, caller: CurrentCaller) -> Response:
    """Return a fine-tuning job."""
    return json_response(FineTuningJobObject.from_job(await _find_job(job_id, caller), caller.key))


@router.post("/{job_id}/cancel", response_model=FineTuningJobObject)
async def cancel(job_id: str, caller: CurrentCaller) -> Response:
    """Cancel a job: at once if it is waiting, through its worker if it is running."""
    return await _change_job(jobs.cancel, job_id, caller)


@router.post("/{job_id}/pause", response_model=FineTuningJobObject)
async def pause(job_id: str, caller: CurrentCaller) -> Response:
    """Pause a job until it is resumed; a paused job has the status `queued`, with its true state in `baichuan`."""
    return await _change_job(jobs.pause, job_id, caller)


@router.post("/{job_id}/resume", response_model=FineTuningJobObject)
async def resume(job_id: str, caller: CurrentCaller) -> Response:
    """Resume a paused job."""
    return await _change_job(jobs.resume, job_id, caller)


@router.get("/{job_id}/events", response_model=Page[FineTuningEventObject], openapi_extra=LIST_PARAMETERS)
async def list_events(job_id: str, request: Request, caller: CurrentCaller) -> Response:
    """List the job's state changes and metrics, newest first."""
    await _find_job(job_id, caller)
    query, key = read_query(request), caller.job_key(job_id)
    before = openai_jobs.parse_event_id(job_id, query.after)
    found = await caller.service.reader.run(
        lambda c: openai_jobs.list_events(c, key, before=before, limit=query.limit + 1, types=EVENT_TYPES)
    )
    return json_response(
        Page[FineTuningEventObject].from_items(
            [FineTuningEventObject.from_event(event) for event in found], query.limit
        )
    )


@router.get("/{job_id}/checkpoints", response_model=Page[FineTuningCheckpointObject], openapi_extra=LIST_PARAMETERS)
async def list_checkpoints(job_id: str, request: Request, caller: CurrentCaller) -> Response:
    """List the checkpoints of a job: only its resulting model, once the job has succeeded."""
    query = read_query(request)
    found = FineTuningCheckpointObject.list_from_job((await _find_job(job_id, caller)).job, caller.key)
    if query.after is not None:
        if query.after not in [checkpoint.id for checkpoint in found]:
            raise UnknownCursorError(query.after)
        found = []
    return json_response(Page[FineTuningCheckpointObject].from_items(found, query.limit))


async def _find_job(job_id: str, caller: Caller) -> PublishedJob:
    return await caller.service.reader.run(lambda c: openai_jobs.get(c, caller.job_key(job_id), JOB_KIND))


async def _change_job(action: Any, job_id: str, caller: Caller) -> Response:
    await _find_job(job_id, caller)
    settings = caller.service.settings
    changed: JobDetails = await caller.service.writer.run(lambda c: action(c, caller.job_key(job_id), settings))
    return _build_response(changed, caller)


def _build_response(job: JobDetails, caller: Caller) -> Response:
    return json_response(FineTuningJobObject.from_job(PublishedJob(job, ()), caller.key))


async def _build_wanted_job(body: FineTuningBody, caller: Caller) -> WantedJob:
    """Return the job to create for a request body."""
    given, openai = _read_hyperparameters(body)
    job_id = new_id("job")
    files = {"training_file": body.training_file, "validation_file": body.validation_file}
    for param, file_id in files.items():
        if file_id is not None:
            await _require_valid_file(caller, file_id, param)
    given |= {name: value for name, value in files.items() if value is not None}
    given |= {"kind": JOB_KIND, "model": await choose_model(caller, body.model, body.baichuan)}
    if body.seed is not None:
        given["seed"] = body.seed
    if body.suffix is not None:
        given["output_model"] = _build_model_name(body, job_id)
    fields = SpecFields(
        given, {**PARAMETER_NAMES, "output_model": "suffix"} if body.suffix else PARAMETER_NAMES, PROTECTED_FIELDS
    )
    if body.suffix is not None and "output_model" in body.baichuan.spec_fields:
        raise InvalidRequestError("cannot be combined with suffix; set only one of them", param="baichuan.output_model")
    spec = fields.build_spec(FinetuneSpec, body.baichuan)
    return WantedJob(job_id, _scale_learning_rate(spec, openai["learning_rate_multiplier"]), fields, openai)


def _scale_learning_rate(spec: FinetuneSpec, factor: float) -> FinetuneSpec:
    rate = spec.learning_rate * factor
    if rate > 1:
        message = f"{factor} times the learning rate {spec.learning_rate} is {rate}; it must be at most 1"
        raise InvalidRequestError(message, param="method.supervised.hyperparameters.learning_rate_multiplier")
    return spec.model_copy(update={"learning_rate": rate})


async def _require_valid_file(caller: Caller, file_id: str, param: str) -> None:
    await caller.service.reader.run(lambda c: openai_jobs.require_valid_file(c, caller.project_id, file_id, param))


def _read_hyperparameters(body: FineTuningBody) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the spec fields that the hyperparameters set, and the values to store in addition to the spec."""
    if body.method is not None and body.hyperparameters is not None:
        raise InvalidRequestError(
            "cannot be combined with method, which replaces it; leave it out", param="hyperparameters"
        )
    chosen = body.method.supervised.hyperparameters if body.method else body.hyperparameters or Hyperparameters()
    given: dict[str, Any] = {}
    if "preset" not in body.baichuan.spec_fields:
        given["preset"] = DEFAULT_PRESET
    if chosen.n_epochs != AUTO:
        given["epochs"] = chosen.n_epochs
    if chosen.batch_size != AUTO:
        given["batch_size"] = chosen.batch_size
    names = ("batch_size", "learning_rate_multiplier", "n_epochs")
    openai: dict[str, Any] = {
        "model": body.model,
        "auto": [name for name in names if getattr(chosen, name) == AUTO],
        "learning_rate_multiplier": 1 if chosen.learning_rate_multiplier == AUTO else chosen.learning_rate_multiplier,
    }
    optional: Mapping[str, Any] = {"metadata": body.metadata, "suffix": body.suffix}
    return given, openai | {name: value for name, value in optional.items() if value is not None}


def _build_model_name(body: FineTuningBody, job_id: str) -> str:
    name = f"{body.model}/{body.suffix}/{job_id[-ID_SUFFIX_LENGTH:]}"
    if len(name) > MAX_MODEL_NAME_LENGTH:
        message = (
            f"the model would be named {name}, which is longer than {MAX_MODEL_NAME_LENGTH} characters;"
            " choose a shorter suffix"
        )
        raise InvalidRequestError(message, param="suffix")
    return name
