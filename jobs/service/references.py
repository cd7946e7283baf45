"""Checks of the models and files that a spec names, made at submission and again before the job runs."""

from collections.abc import Mapping

from jobs.errors import InvalidRequestError, UnknownFileError, UnknownModelError
from jobs.models.directories import GGUF_KIND, LLAMA_KIND
from jobs.records import FileRecord, ModelRecord
from jobs.specs import AdapterUse, AnySpec, ChosenModel, ModelInputSpec

ADAPTER = "adapter"
LLAMA_DESCRIPTION = "in Llama format, for use with other programs"


def resolve_models(
    spec: AnySpec, named: Mapping[str, ModelRecord], bases: Mapping[str, ModelRecord]
) -> dict[str, ModelRecord]:
    """Return the models to load, by field; an adapter named as `model` becomes `adapter`, and its base becomes `model`.

    Args:
        spec: The job's spec.
        named: The models that it names, by field; models that do not exist are absent.
        bases: The base models of the adapters among them, by the adapter's field, if they exist.

    Raises:
        UnknownModelError: A model does not exist, or is still being made.
        InvalidRequestError: A model is of a kind that cannot be used in its field, or does not fit the spec.
    """
    for field, name in spec.list_model_references().items():
        _require_ready(field, name, named.get(field))
    if not isinstance(spec, ModelInputSpec):
        return {}
    resolved = _resolve_adapter(spec, named, bases)
    for field, model in resolved.items():
        if field != ADAPTER:
            _require_whole_model(spec, field, model)
    _require_adapter(spec, resolved)
    _require_compatible_model(spec, resolved)
    return resolved


def require_files(spec: AnySpec, known: Mapping[str, FileRecord]) -> None:
    """Check that the files that the spec names exist, and that their content suits their purpose.

    Args:
        spec: The job's spec.
        known: The files that exist, by id.

    Raises:
        UnknownFileError: A file does not exist.
        InvalidRequestError: The content of a file does not suit its purpose.
    """
    for field, file_id in spec.list_file_references().items():
        file = known.get(file_id)
        if file is None:
            message = f"there is no file {file_id}; upload it with `POST /v1/files` and submit a new job"
            raise UnknownFileError(message, param=field)
        require_usable_file(file, field)


def require_usable_file(file: FileRecord, param: str) -> None:
    """Check that the content of a file suits its purpose.

    Raises:
        InvalidRequestError: It does not.
    """
    if file.status == "error":
        message = f"file {file.id} cannot be used: {file.status_details}; correct it and upload it again"
        raise InvalidRequestError(message, param=param)


def _require_ready(field: str, name: str, model: ModelRecord | None) -> None:
    if model is None:
        message = f"there is no model {name!r}; `GET /v1/models` lists your models, `POST /v1/models` registers one"
        raise UnknownModelError(message, param=field)
    if model.state != "ready":
        message = f"model {name!r} is still being made by job {model.job_id}; wait until that job has succeeded"
        raise UnknownModelError(message, param=field)


def _resolve_adapter(
    spec: ModelInputSpec, named: Mapping[str, ModelRecord], bases: Mapping[str, ModelRecord]
) -> dict[str, ModelRecord]:
    model = named["model"]
    if model.kind != ADAPTER:
        return dict(named)
    if spec.adapter_use is AdapterUse.REFUSED:
        message = f"model {model.id!r} is a LoRA adapter, which this job cannot use; name a whole checkpoint such as "
        raise InvalidRequestError(message + (f"its base {model.base!r}" if model.base else "its base"), param="model")
    if ADAPTER in named:
        message = f"model {model.id!r} is a LoRA adapter, and adapter is given too; name its base as model, or leave "
        raise InvalidRequestError(message + "adapter out", param=ADAPTER)
    base = bases.get("model")
    if base is None or base.kind == ADAPTER or base.state != "ready":
        message = f"the base of adapter {model.id!r} is unknown; name the base as model and this one as adapter"
        raise InvalidRequestError(message, param="model")
    return {**named, "model": base, ADAPTER: model}


def _require_whole_model(spec: ModelInputSpec, field: str, model: ModelRecord) -> None:
    """Check that a model other than the adapter can be loaded for this field."""
    if model.kind == ADAPTER:
        message = f"model {model.id!r} is a LoRA adapter; name a whole checkpoint as {field}, and the adapter as model"
        raise InvalidRequestError(message, param=field)
    if model.kind == LLAMA_KIND or (model.kind == GGUF_KIND and not (spec.runs_gguf and field == "model")):
        found = (
            LLAMA_DESCRIPTION if model.kind == LLAMA_KIND else "a GGUF file, which only generate and serve jobs can run"
        )
        made_from = f"the checkpoint it was made from, {model.base!r}" if model.base else "a checkpoint"
        raise InvalidRequestError(f"model {model.id!r} is {found}; use {made_from}", param=field)


def _require_adapter(spec: ModelInputSpec, resolved: Mapping[str, ModelRecord]) -> None:
    adapter = resolved.get(ADAPTER)
    if adapter is None:
        if spec.adapter_use is AdapterUse.REQUIRED:
            message = f"model {resolved['model'].id!r} is not a LoRA adapter; name one as adapter, or as model"
            raise InvalidRequestError(message, param=ADAPTER)
    elif adapter.kind != ADAPTER:
        message = f"model {adapter.id!r} is a whole {adapter.kind}, not a LoRA adapter; name it as model"
        raise InvalidRequestError(message, param=ADAPTER)


def _require_compatible_model(spec: ModelInputSpec, resolved: Mapping[str, ModelRecord]) -> None:
    model = resolved["model"]
    chosen = ChosenModel(
        is_gguf=model.kind == GGUF_KIND,
        is_quantized=bool(model.details.get("quantization")),
        has_adapter=ADAPTER in resolved,
    )
    if misfit := spec.find_incompatibility(chosen):
        raise InvalidRequestError(f"model {model.id!r} {misfit.message}", param=misfit.param)
