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
    """Check that the packages of trackers are installed.

    Raises:
        UnsupportedError: A package is not installed; the message says how to install it.
    """
    for name in names:
        if find_spec(name) is None:
            raise UnsupportedError(
                f"report_to contains {name!r}, but the package {name} is not installed on the training machine;"
                f' install it with `pip install "baichuan-jobs[{name}]"`, or remove {name!r}'
            )


@contextmanager
def tracking(names: Sequence[str], folder: Path) -> Iterator[None]:
    """Make trackers write into `folder`, unless their environment variables are set, and finish their runs.

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
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
        if "wandb" in names and (wandb := sys.modules.get("wandb")) is not None and wandb.run is not None:
            wandb.finish()  # its exit handler would not run, because runner processes skip exit handlers
