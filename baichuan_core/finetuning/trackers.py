"""Optional experiment trackers: Weights & Biases and MLflow."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from baichuan_core.errors import UnsupportedError

TRACKERS = ("wandb", "mlflow")


def require_trackers(names: Sequence[str]) -> None:
    """Check that the trackers' packages are installed.

    Raises:
        UnsupportedError: A package is not installed; the message states how to install it.
    """
    for name in names:
        if not _is_installed(name):
            raise UnsupportedError(
                f"report_to contains {name!r}, but the package {name} is not installed on the training machine;"
                f' install it with `pip install "baichuan-jobs[{name}]"`, or remove {name!r}'
            )


def _is_installed(name: str) -> bool:
    spec = find_spec(name)
    # wandb creates a folder "wandb" for its runs, which would be found as a namespace package.
    return spec is not None and spec.origin is not None


@contextmanager
def tracker_session(names: Sequence[str], folder: Path) -> Iterator[None]:
    """Make trackers write to `folder` unless their environment variables are set; finish their runs at the end.

    If the block raises an exception, the trackers mark their runs as failed.

    Without WANDB_API_KEY, wandb runs offline; `wandb sync` uploads its folder later. Without MLFLOW_TRACKING_URI,
    MLflow writes a database, which `mlflow ui --backend-store-uri` displays.
    """
    defaults = {}
    if "wandb" in names:
        defaults["WANDB_DIR"] = str(folder)
        if "WANDB_API_KEY" not in os.environ:
            defaults["WANDB_MODE"] = "offline"
    if "mlflow" in names:
        defaults["MLFLOW_TRACKING_URI"] = f"sqlite:///{(folder / 'mlflow.db').absolute()}"
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    if added:
        folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(added)
    failed = True
    try:
        yield
        failed = False
    finally:
        _end_runs(names, failed=failed)
        for name in added:
            del os.environ[name]


def _end_runs(names: Sequence[str], *, failed: bool) -> None:
    """Finish the trackers' open runs here, because runner processes skip exit handlers."""
    loaded = {name: sys.modules[name] for name in names if name in sys.modules}
    if (wandb := loaded.get("wandb")) is not None and wandb.run is not None:
        wandb.finish(exit_code=int(failed))
    if (mlflow := loaded.get("mlflow")) is not None and mlflow.active_run() is not None:
        mlflow.end_run("FAILED" if failed else "FINISHED")
