"""Two figures of one machine: whole updates beside their floor, and how much faster each function became."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from benchmarks.measure import Measurement
from benchmarks.variants import MODES

INK = "#7a7f87"  # is read on white and on the dark page alike
STYLE = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "legend.frameon": False,
    "svg.hashsalt": "benchmarks",
}
OURS, THEIRS, FLOOR = "#0072B2", "#999999", "#D55E00"


def draw(rows: list[Measurement], folder: Path, prefix: str = "") -> list[Path]:
    """Those of the figures that the rows have something for."""
    figures: dict[str, Callable[[list[Measurement]], Figure | None]] = {"updates": _updates, "functions": _functions}
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with plt.rc_context(STYLE):
        for name, figure_of in figures.items():
            figure = figure_of([row for row in rows if row.median_us is not None])
            if figure is not None:
                path = folder / f"{prefix}{name}.svg"
                figure.savefig(path, metadata={"Date": None}, transparent=True)
                plt.close(figure)
                paths.append(path)
    return paths


def _updates(rows: list[Measurement]) -> Figure | None:
    """A panel for each algorithm and precision, the fastest variant on top, the matrix products as a line."""
    updates = [row for row in rows if row.group == "update"]
    if not updates:
        return None
    names, shapes = (list(dict.fromkeys(getattr(row, key) for row in updates)) for key in ("name", "shape"))
    figure = plt.figure(figsize=(3.2 * len(names), 2.4 * len(shapes)), layout="constrained")
    panels = figure.subplots(len(shapes), len(names), squeeze=False)
    for axes, (shape, name) in zip(panels.flat, product(shapes, names), strict=True):
        bars = [row for row in updates if (row.name, row.shape) == (name, shape)]
        if not bars:
            axes.set_axis_off()
            continue
        bars.sort(key=lambda row: -_milliseconds(row.median_us))
        spread = [[_milliseconds(row.median_us) - _milliseconds(row.p20_us) for row in bars],
                  [_milliseconds(row.p80_us) - _milliseconds(row.median_us) for row in bars]]  # fmt: skip
        colors = [OURS if row.variant in ("eager", "compiled") else THEIRS for row in bars]
        heights = [_milliseconds(row.median_us) for row in bars]
        axes.barh(
            [row.variant for row in bars],
            heights,
            xerr=spread,
            color=colors,
            error_kw={"linewidth": 0.8, "ecolor": INK},
        )
        axes.axvline(_milliseconds(bars[0].floor_us), color=FLOOR, linewidth=1, label="its matrix products alone")
        axes.set(title=f"{name}, {shape}", xlabel="milliseconds for one update")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center")
    return figure


def _functions(rows: list[Measurement]) -> Figure | None:
    """A cell for each function and size: eager over fused, forward and backward."""
    times = {
        (row.name, row.elements, row.variant): row.median_us
        for row in rows
        if row.group == "grid" and row.mode == MODES[1]
    }
    names = list(dict.fromkeys(name for name, _, variant in times if variant == "fused"))
    sizes = sorted({elements for _, elements, variant in times if variant == "fused"})
    if not names:
        return None
    figure = plt.figure(figsize=(1.8 + 0.75 * len(sizes), 0.8 + 0.19 * len(names)), layout="constrained")
    axes = figure.subplots()
    cells = [[_ratio(times, name, size) for size in sizes] for name in names]
    axes.imshow(cells, norm=matplotlib.colors.LogNorm(0.5, 8), cmap="RdYlGn", aspect="auto")
    for y, line in enumerate(cells):
        for x, ratio in enumerate(line):
            axes.text(x, y, f"{ratio:.1f}", ha="center", va="center", fontsize=7, color="black")
    axes.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
    axes.set_yticks(range(len(names)), names)
    axes.set(title="eager ÷ fused, forward and backward", xlabel="elements")
    return figure


def _ratio(times: dict[Any, float | None], name: str, size: int) -> float:
    eager, fused = times.get((name, size, "eager")), times.get((name, size, "fused"))
    return eager / fused if eager and fused else float("nan")


def _milliseconds(value: float | None) -> float:
    return (value or 0.0) / 1e3
