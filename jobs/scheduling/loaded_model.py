"""What a job loads, so that it can be placed where that is loaded already."""

import hashlib
import json
from dataclasses import dataclass
from typing import Self

from jobs.records import ModelRecord


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model as one project's jobs load it for inference.

    Attributes:
        project_id: The project that owns the model: a loaded model never serves another one.
        id: Id of the model.
        source: Where its files are: a path or a key in the artifact store.
        dtype: Dtype of the weights as jobs ask for it, "auto" for that of the checkpoint.
        adapter: Id of the adapter, if it has one.
        adapter_source: Where the adapter's files are.
    """

    project_id: str
    id: str
    source: str
    dtype: str
    adapter: str | None = None
    adapter_source: str | None = None

    @classmethod
    def of(cls, model: ModelRecord, adapter: ModelRecord | None, dtype: str) -> Self:
        """Return the model of these records."""
        name, source = (None, None) if adapter is None else (adapter.id, find_source(adapter))
        return cls(model.project_id, model.id, find_source(model), dtype, name, source)

    @property
    def key(self) -> str:
        """Return a short name: the same for two jobs if they load the same files in the same way."""
        parts = [self.project_id, self.source, self.dtype, self.adapter_source]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]

    @property
    def sources(self) -> dict[str, str]:
        """Return where the files of each model are, by its id."""
        adapter = {self.adapter: self.adapter_source or ""} if self.adapter else {}
        return {self.id: self.source, **adapter}


def find_source(model: ModelRecord) -> str:
    """Return where the files of a model are; "" while the job that makes it is under way."""
    return model.path or model.key or ""
