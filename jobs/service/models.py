"""Models that job specs can refer to."""

from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Connection

from checkpoint_files import FileError, check_directory
from jobs.database import now_ms
from jobs.errors import InvalidRequestError, NameTakenError, NotFoundError, UnknownCursorError
from jobs.models.directories import InspectedModel, inspect_directory, resolve_allowed_path
from jobs.records import ModelRecord
from jobs.repository import models
from jobs.settings import Settings


@dataclass(frozen=True, slots=True)
class CheckedDirectory:
    """A directory that may be registered, and its content."""

    path: Path
    found: InspectedModel


def check_model_directory(path: str, settings: Settings) -> CheckedDirectory:
    """Check a directory that a user wants to register; slow, so call it outside any transaction.

    Raises:
        PathNotAllowedError: it is outside the allowed roots.
        InvalidRequestError: it is not a complete model, or the service may not read it.
    """
    try:
        folder = resolve_allowed_path(path, settings.allowed_model_roots)
        found = inspect_directory(folder)
        check_directory(folder)
        return CheckedDirectory(folder, found)
    except FileError as error:
        raise InvalidRequestError(str(error), param="path") from None
    except OSError as error:
        message = f"the service cannot read {path}: {error.strerror}; correct its permissions"
        raise InvalidRequestError(message, param="path") from None


def register(connection: Connection, project_id: str, name: str, checked: CheckedDirectory) -> ModelRecord:
    """Register a checked directory as a model with this name; if it is already registered, update its details.

    Raises:
        NameTakenError: the project already has a model with this name at another path.
    """
    record = ModelRecord(
        project_id=project_id,
        id=name,
        kind=checked.found.kind,
        state="ready",
        base=None,
        job_id=None,
        path=str(checked.path),
        key=None,
        details=checked.found.details,
        created_at=now_ms(connection),
    )
    if models.add(connection, record):
        return record
    present = models.get_many(connection, project_id, [name])[name]
    if present.path != record.path:
        raise NameTakenError(f"model {name!r} already exists; choose another id", param="id")
    refreshed = replace(present, kind=record.kind, details=record.details)
    models.update_registered(connection, refreshed)
    return refreshed


def get(connection: Connection, project_id: str, name: str) -> ModelRecord:
    """Return a ready model.

    Raises:
        NotFoundError: there is no such model.
    """
    model = models.get_many(connection, project_id, [name]).get(name)
    if model is None or model.state != "ready":
        raise NotFoundError(f"there is no model {name!r}; `GET /v1/models` lists your models", param="model")
    return model


def list_page(connection: Connection, project_id: str, *, after: str | None, limit: int | None) -> list[ModelRecord]:
    """Return ready models, sorted by name; all of them if `limit` is None.

    Raises:
        UnknownCursorError: `after` is not a model of the project.
    """
    if after and after not in models.get_many(connection, project_id, [after]):
        raise UnknownCursorError(after)
    return models.list_page(connection, project_id, after=after, limit=limit)
