"""The model that a job loads, so that the job can be placed where that model is already loaded."""

import hashlib
import json
from dataclasses import dataclass
from typing import Self

from jobs.records import ModelRecord


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model, and how a project's jobs load it for inference.

    Attributes:
        project_id: The project that owns the model; a loaded model never serves another project.
        id: Id of the model.
        source: Path of its files, or their key in the artifact store.
        dtype: Requested dtype of the weights; "auto" is the checkpoint's own.
        adapter: Id of the adapter, if any.
        adapter_source: Path or key of the adapter's files.
    """

    project_id: str
    id: str
    source: str
    dtype: str
    adapter: str | None = None
    adapter_source: str | None = None

    @classmethod
    def from_records(cls, model: ModelRecord, adapter: ModelRecord | None, dtype: str) -> Self:
        """Create a `LoadedModel` from the records of a model and its adapter."""
        name, source = (None, None) if adapter is None else (adapter.id, find_source(adapter))
        return cls(model.project_id, model.id, find_source(model), dtype, name, source)

    @property
    def key(self) -> str:
        """Return a short key that is equal for two jobs if they load the same files in the same way."""
        parts = [self.project_id, self.source, self.dtype, self.adapter_source]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]

    @property
    def sources(self) -> dict[str, str]:
        """Return the path or key of each model's files, by model id."""
        adapter = {self.adapter: self.adapter_source or ""} if self.adapter else {}
        return {self.id: self.source, **adapter}


def find_source(model: ModelRecord) -> str:
    """Return the path or key of a model's files; "" until the job that makes it has succeeded."""
    return model.path or model.key or ""
