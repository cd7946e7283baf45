"""Resume points in the artifact store: each is a folder of files and a description that is written last.

A folder without a description is still being written, or its writer has died. If a file is missing or has another size,
the resume point is being deleted. Neither counts as a resume point.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from jobs.artifacts.store import ArtifactStore, StoredFile
from jobs.artifacts.workspace import MARKER_FOLDER, Workspace
from jobs.identifiers import new_id

_MARKER_PATTERN = re.compile(rf"([^/]+)/checkpoints/{MARKER_FOLDER}/(\d+)\.json")


@dataclass(frozen=True, slots=True)
class ResumePointModel:
    """The model in a resume point: its kind, its details, and its files within the folder."""

    kind: str
    details: Mapping[str, Any]
    files: Sequence[StoredFile]


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """A complete resume point.

    Attributes:
        job_id: The job.
        attempt_id: The attempt that saved it.
        step: Optimizer step after which it was saved.
        saved_at: Time in milliseconds since the epoch, by the worker's clock.
        sizes: Bytes of each file, by its path in the folder.
        model: The model in it; None if a sharded run saved the files, which no program can turn into a model.
    """

    job_id: str
    attempt_id: str
    step: int
    saved_at: int
    sizes: Mapping[str, int]
    model: ResumePointModel | None

    @property
    def key(self) -> str:
        """Key of the resume point's folder in the store."""
        return Workspace(self.job_id, self.attempt_id).resume_point_key(self.step)

    @property
    def size_bytes(self) -> int:
        """Total size of the resume point's files."""
        return sum(self.sizes.values())


_RESUME_POINT_ADAPTER: TypeAdapter[ResumePoint] = TypeAdapter(ResumePoint)


def write_description(store: ArtifactStore, point: ResumePoint) -> None:
    """Write the description of a resume point after all its files are in the store."""
    file = store.open_scratch_folder() / new_id("marker")
    file.write_bytes(_RESUME_POINT_ADAPTER.dump_json(point))
    store.put(file, Workspace(point.job_id, point.attempt_id).marker_key(point.step))


def delete_resume_point(store: ArtifactStore, workspace: Workspace, step: int) -> None:
    """Delete a resume point, starting with its description."""
    store.delete(workspace.marker_key(step))
    store.delete(workspace.resume_point_key(step))


def list_complete_resume_points(store: ArtifactStore, job_id: str, attempt_ids: Iterable[str]) -> list[ResumePoint]:
    """Return a job's complete resume points in order of step; for equal steps, the later attempt wins.

    Args:
        store: The artifact store.
        job_id: The job.
        attempt_ids: The attempts to consider, first to last.
    """
    sizes = store.list_sizes(f"jobs/{job_id}")
    steps: dict[str, list[int]] = {}
    for path in sizes:
        if match := _MARKER_PATTERN.fullmatch(path):
            steps.setdefault(match[1], []).append(int(match[2]))
    found: dict[int, ResumePoint] = {}
    for attempt_id in attempt_ids:
        for step in steps.get(attempt_id, ()):
            if (point := _read_resume_point(store, job_id, attempt_id, step, sizes)) is not None:
                found[step] = point
    return [found[step] for step in sorted(found)]


def _read_resume_point(
    store: ArtifactStore, job_id: str, attempt_id: str, step: int, sizes: Mapping[str, int]
) -> ResumePoint | None:
    workspace = Workspace(job_id, attempt_id)
    prefix = f"jobs/{job_id}/"
    try:
        marker = workspace.marker_key(step)
        point = _RESUME_POINT_ADAPTER.validate_json(b"".join(store.read(marker, 0, sizes[marker.removeprefix(prefix)])))
    except (FileNotFoundError, ValueError):
        return None  # the description was deleted in the meantime, or another version of the service wrote it
    folder = workspace.resume_point_key(step).removeprefix(prefix)
    is_complete = all(sizes.get(f"{folder}/{path}") == size for path, size in point.sizes.items())
    return point if is_complete else None
