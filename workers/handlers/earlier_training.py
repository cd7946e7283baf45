"""Finds resume points of earlier attempts at a fine-tune, on this machine's disk or in the artifact store."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.handlers.contract import HandlerContext

LINKS_FOLDER = "earlier"
STATE_FILE = "trainer_state.json"


def find_resume_point(context: HandlerContext) -> Path | None:
    """Return the newest resume point of all earlier attempts, linked next to the best one; None if there are none.

    Resume points on this machine are preferred, because they may be newer than the uploaded ones.
    """
    local = {
        step: path for folder in context.earlier_checkpoints for step, path in _list_local_resume_points(folder).items()
    }
    points = context.resume_points
    shared = {point.step: point for point in points.list_earlier()} if points else {}
    newest = max([*local, *shared], default=None)
    if newest is None:
        return None
    folder = context.checkpoints / LINKS_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()

    def link_resume_point(step: int) -> Path:
        link = folder / f"checkpoint-{step}"
        link.symlink_to((local[step] if step in local or points is None else points.fetch(shared[step])).absolute())
        return link

    found = link_resume_point(newest)
    best = _read_best_step(found)
    if best is not None and best != newest and (best in local or best in shared):
        link_resume_point(best)
    return found


def _list_local_resume_points(folder: Path) -> Mapping[int, Path]:
    """Return the complete resume points in a folder, by step: those with a state file, which is written last."""
    states = {path: _read_state(path) for path in folder.glob("checkpoint-*")}
    return {int(state["global_step"]): path for path, state in states.items() if "global_step" in state}


def _read_best_step(resume_point: Path) -> int | None:
    best = _read_state(resume_point).get("best_global_step")
    return None if best is None else int(best)


def _read_state(resume_point: Path) -> dict[str, Any]:
    try:
        state = json.loads((resume_point / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}
