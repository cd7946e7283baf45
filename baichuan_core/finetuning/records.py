"""Records of a run: its logged steps as JSON lines, a plot, and TensorBoard files if that package is installed."""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from baichuan_core.finetuning.distributed.distribution import DistributionPlan

SERIES_FILE = "series.jsonl"
PLAN_FILE = "distribution.json"
PLOT_FILE = "training.png"
TENSORBOARD_FOLDER = "tensorboard"
LOSS_KEYS = ("loss", "eval_loss")

LogEntry = Mapping[str, Any]


class SeriesWriter(TrainerCallback):
    """Callback that appends each logged step to the series file; a resumed run first writes the earlier steps."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / SERIES_FILE

    def on_train_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Write the steps of earlier attempts."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text("".join(map(_format_line, select_steps(state.log_history))), encoding="utf-8")

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Append the newest log entry."""
        with self.file.open("a", encoding="utf-8") as file:
            file.writelines(map(_format_line, select_steps(state.log_history[-1:])))


def _format_line(entry: LogEntry) -> str:
    return json.dumps(entry) + "\n"


def select_steps(history: Sequence[LogEntry]) -> list[LogEntry]:
    """Return the entries for steps and evaluations, without the final summary."""
    return [entry for entry in history if any(name in entry for name in LOSS_KEYS)]


def write_records(folder: Path, history: Sequence[LogEntry]) -> None:
    """Write the plot, and TensorBoard files if the package is installed, next to the series."""
    steps = select_steps(history)
    if not steps:
        return
    folder.mkdir(parents=True, exist_ok=True)
    _plot_steps(steps).savefig(folder / PLOT_FILE, dpi=120)
    if find_spec("tensorboard") is not None:
        _write_tensorboard(folder / TENSORBOARD_FOLDER, steps)


def write_plan(folder: Path, plan: DistributionPlan) -> None:
    """Write the distribution plan of the run, with the reason for its strategy."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"strategy": plan.strategy, "reason": plan.reason, "nodes": plan.nodes, "processes": plan.processes}
    (folder / PLAN_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _plot_steps(steps: Sequence[LogEntry]) -> Figure:
    figure = Figure(figsize=(8, 8), layout="constrained")
    losses, rates, norms = figure.subplots(3, 1, sharex=True)
    for axes, names in ((losses, LOSS_KEYS), (rates, ("learning_rate",)), (norms, ("grad_norm",))):
        for name in names:
            points = [(entry["step"], entry[name]) for entry in steps if name in entry]
            if points:
                axes.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else "", label=name)  # noqa: PLR2004
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    norms.set_xlabel("step")
    losses.set_ylabel("nats per token")
    return figure


def _write_tensorboard(folder: Path, steps: Sequence[LogEntry]) -> None:
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - the package is optional

    with SummaryWriter(str(folder)) as writer:
        for entry in steps:
            for name, value in entry.items():
                if name not in ("step", "epoch"):
                    writer.add_scalar(name, value, int(entry["step"]))
