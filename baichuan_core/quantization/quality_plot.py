"""Plots a quality report: weight errors by depth, memory, and a table of metrics."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# One color per kind of layer, distinguishable by color-blind readers, and one line style per model.
LAYER_COLORS = {
    "self_attn.W_pack": "#0072B2",
    "self_attn.o_proj": "#E69F00",
    "mlp.gate_proj": "#009E73",
    "mlp.up_proj": "#CC79A7",
    "mlp.down_proj": "#D55E00",
    "model.embed_tokens": "#56B4E9",
    "lm_head": "#000000",
}
OTHER_COLOR = "#555555"
LINE_STYLES = ("-", "--", ":", "-.")
GREY, BLUE = "#9AA5B1", "#0072B2"
GIBIBYTE, MEBIBYTE = 2**30, 2**20


def plot_quality(report: Mapping[str, Any], file: Path) -> None:
    """Plot the content of quality.json as a PNG of about 1300 x 800 pixels."""
    figure = Figure(figsize=(13, 8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, width_ratios=(3, 2), height_ratios=(5, 2))
    _plot_errors(figure.add_subplot(grid[0, 0]), report["models"])
    _plot_memory(figure.add_subplot(grid[0, 1]), report["models"])
    _plot_metrics_table(figure.add_subplot(grid[1, :]), report)
    figure.savefig(file)


def _plot_errors(axes: Axes, models: Sequence[Mapping[str, Any]]) -> None:
    axes.set_title("Relative error of the weights, |W − Q| / |W|")
    axes.set_xlabel("block")
    shown: set[str] = set()
    measured = [model for model in models if model["relative_errors"]]
    for model, style in zip(measured, LINE_STYLES * len(measured), strict=False):
        for kind, points in _group_by_kind(model["relative_errors"]).items():
            label = kind if kind not in shown else None
            shown.add(kind)
            axes.plot(
                *zip(*points, strict=True), style, marker=".", color=LAYER_COLORS.get(kind, OTHER_COLOR), label=label
            )
        axes.plot([], [], style, color="black", label=model["name"])
    if not measured:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=OTHER_COLOR)
        axes.set(xticks=[], yticks=[])
        return
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)


def _group_by_kind(errors: Mapping[str, float]) -> dict[str, list[tuple[int, float]]]:
    """Return (block, error) points per kind of layer, with the embedding before the first block and the head last."""
    kinds: dict[str, list[tuple[int, float]]] = {}
    for name, error in errors.items():
        if found := re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name):
            kinds.setdefault(found[2], []).append((int(found[1]), error))
    deepest = max((block for points in kinds.values() for block, _ in points), default=0)
    for name, block in (("model.embed_tokens.weight", -1), ("lm_head.weight", deepest + 1)):
        if name in errors:
            kinds[name.removesuffix(".weight")] = [(block, errors[name])]
    return {kind: sorted(points) for kind, points in kinds.items()}


def _plot_memory(axes: Axes, models: Sequence[Mapping[str, Any]]) -> None:
    largest = max(model["weight_bytes"] for model in models)
    unit, name = (GIBIBYTE, "GiB") if largest >= GIBIBYTE else (MEBIBYTE, "MiB")
    sizes = [model["weight_bytes"] / unit for model in models]
    bars = axes.bar([model["name"] for model in models], sizes, color=[GREY] + [BLUE] * (len(models) - 1), width=0.6)
    axes.bar_label(bars, [f"{size:.2f} ({size / sizes[0]:.0%})" for size in sizes], padding=3)
    axes.set_title(f"Memory used by the weights, {name}")
    axes.margins(y=0.12)
    axes.spines[["top", "right"]].set_visible(False)


def _plot_metrics_table(axes: Axes, report: Mapping[str, Any]) -> None:
    axes.axis("off")
    heads = ["model", "perplexity", "KL, nats per token", "top-1 agreement", "mean weight error"]
    rows = [
        [
            model["name"],
            _format_number(model["perplexity"], "{:.3f}"),
            _format_number(model["kl_divergence"], "{:.4f}"),
            _format_number(model["top_1_agreement"], "{:.1%}"),
            _format_number(model["mean_relative_error"], "{:.4f}"),
        ]
        for model in report["models"]
    ]
    table = axes.table(rows, colLabels=heads, loc="upper center", cellLoc="center")
    table.auto_set_font_size(False)
    table.set_fontsize(12)
    table.scale(1, 1.8)
    missing = report["likelihoods_missing"]
    if missing:
        axes.set_title(f"No likelihoods: {missing}", fontsize="medium", wrap=True)
    else:
        # The file name is not shown, because the font may lack some of its characters.
        source = "the built-in" if report["text"] == "built-in" else "a custom"
        axes.set_title(f"On {report['tokens']} tokens of {source} text")


def _format_number(value: float | None, template: str) -> str:
    return "–" if value is None else template.format(value)
