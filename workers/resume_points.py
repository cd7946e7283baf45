"""Transfers resume points between a runner and the artifact store, so that any machine can continue the job."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from jobs.artifacts import ArtifactStore, Workspace, describe_files
from jobs.artifacts.resume_points import (
    ResumePoint,
    ResumePointModel,
    delete_resume_point,
    list_complete_resume_points,
    write_description,
)
from jobs.errors import InvalidRequestError
from jobs.models.directories import inspect_directory

# Files of a resume point that are part of its model; all other files are training state.
MODEL_FILE_PATTERNS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "baichuan_base.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates/*",
)

WEIGHTS_SUFFIX = ".safetensors"


class ResumePoints:
    """Uploads the resume points of one attempt, and fetches those of earlier attempts.

    A background thread uploads the newest point; a point that is still waiting when a newer one arrives is replaced. A
    failed upload is not retried, because another point will follow.
    """

    def __init__(self, store: ArtifactStore, workspace: Workspace, earlier: Sequence[str]) -> None:
        self._store = store
        self._workspace = workspace
        self._earlier = earlier
        self._changed = threading.Condition()
        self._waiting: tuple[int, Path] | None = None
        self._is_busy = False
        self._shared: set[int] = set()
        self._thread: threading.Thread | None = None

    def schedule_upload(self, folder: Path) -> None:
        """Schedule the upload of a complete resume point, `checkpoint-STEP` in the workspace; return immediately."""
        step = int(folder.name.rpartition("-")[2])
        try:
            held = self._store.hold(self._workspace.resume_point_key(step))
        except OSError as error:
            _report_failure(step, error)
            return
        with self._changed:
            replaced, self._waiting = self._waiting, (step, held)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="resume points", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if replaced is not None:
            self._store.release(replaced[1])

    def flush(self) -> None:
        """Wait until no upload is pending."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is None and not self._is_busy)

    def list_earlier(self) -> list[ResumePoint]:
        """Return the complete resume points of earlier attempts that are in the store, by step."""
        return list_complete_resume_points(self._store, self._workspace.job_id, self._earlier)

    def fetch(self, point: ResumePoint) -> Path:
        """Return the folder of a resume point on this machine's disk."""
        return self._store.fetch_path(point.key)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting is not None)
                chosen, self._waiting, self._is_busy = self._waiting, None, True
            if chosen is None:
                continue
            try:
                self._upload(*chosen)
            except Exception as error:  # noqa: BLE001 - training continues, and the next upload may succeed
                _report_failure(chosen[0], error)
                self._store.release(chosen[1])

    def _upload(self, step: int, held: Path) -> None:
        sizes = {path.relative_to(held).as_posix(): path.stat().st_size for path in held.rglob("*") if path.is_file()}
        model = _describe_model(held)
        self._store.share(held, self._workspace.resume_point_key(step))
        point = ResumePoint(
            job_id=self._workspace.job_id,
            attempt_id=self._workspace.attempt_id,
            step=step,
            saved_at=int(time.time() * 1000),
            sizes=sizes,
            model=model,
        )
        write_description(self._store, point)
        self._shared.add(step)
        self._delete_rotated_points()

    def _delete_rotated_points(self) -> None:
        """Delete the stored points that training has deleted locally, except the newest, which may be the only one."""
        local = self._store.open_workspace(self._workspace.checkpoints)
        for step in sorted(self._shared)[:-1]:
            if not (local / f"checkpoint-{step}").is_dir():
                delete_resume_point(self._store, self._workspace, step)
                self._shared.discard(step)


def _report_failure(step: int, error: Exception) -> None:
    print(f"resume point {step} could not be stored: {error}")  # noqa: T201 - the job's log


def _describe_model(folder: Path) -> ResumePointModel | None:
    try:
        found = inspect_directory(folder)
    except InvalidRequestError:
        return None
    files = describe_files(folder, MODEL_FILE_PATTERNS)
    if not any(file.path.endswith(WEIGHTS_SUFFIX) for file in files):
        return None  # a sharded run saves no weights that can be used as a model
    size = sum(file.bytes for file in files)
    return ResumePointModel(found.kind, {**found.details, "bytes": size}, files)
