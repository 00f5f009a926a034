"""The demo's two figures: what was learned, and what Q claims against what the policy truly earns."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from families import FAMILIES
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from summary import Result

STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
}


def draw_learning_curves(results: list[Result], folder: Path) -> Path:
    """Return of the deployed policy over the updates, its mean over seeds within a band of one standard error."""
    with plt.rc_context(STYLE):
        figure, panels = _panels(results)
        for axes, rows in panels:
            for row in rows:
                color = FAMILIES[row["family"]].color
                columns = (
                    [point.get(key) for point in row["history"]] for key in ("step", "return", "return_standard_error")
                )
                steps, returns, errors = columns
                axes.plot(steps, returns, color=color, label=_label(row))
                if None not in errors:
                    low, high = zip(*((x - e, x + e) for x, e in zip(returns, errors, strict=True)), strict=True)
                    axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
            axes.axhline(rows[0]["dataset_mean"], color="black", linewidth=0.8, linestyle=":", label="mean of the data")
            axes.set(xlabel="updates", ylabel="return")
        handles = {line.get_label(): line for axes, _ in panels for line in axes.get_lines()}
        return _finish(figure, folder / "learning_curves.png", list(handles.values()))


def draw_q_and_truth(results: list[Result], folder: Path) -> Path:
    """For each family with a Q: its mean on the data's actions, and what the policy truly earns after them."""
    with plt.rc_context(STYLE):
        figure, panels = _panels([row for row in results if row.get("true_return") is not None])
        for axes, rows in panels:
            for height, row in enumerate(reversed(rows)):
                color, claimed, true = FAMILIES[row["family"]].color, row["q_data"], row["true_return"]
                axes.plot([claimed, true], [height, height], color=color, linewidth=1)
                axes.plot(claimed, height, "o", color=color)
                axes.plot(true, height, "o", color=color, markerfacecolor="white")
            axes.set_yticks(range(len(rows)), [row["family"] for row in reversed(rows)])
            axes.set(xlabel="discounted return, from the data on", ylim=(-0.6, len(rows) - 0.4))
            axes.margins(x=0.15)
        claim = Line2D([], [], marker="o", linestyle="", color="black", label="mean Q")
        truth = Line2D([], [], marker="o", linestyle="", color="black", markerfacecolor="white", label="truly earned")
        return _finish(figure, folder / "q_and_truth.png", [claim, truth])


def _panels(results: list[Result]) -> tuple[Figure, list[tuple[Axes, list[Result]]]]:
    """One panel for each dataset, side by side."""
    datasets = list(dict.fromkeys(row["dataset"] for row in results))
    figure = plt.figure(figsize=(3.2 * len(datasets), 3.0), layout="constrained")
    panels = []
    for axes, dataset in zip(figure.subplots(1, len(datasets), squeeze=False)[0], datasets, strict=True):
        axes.set_title(dataset)
        panels.append((axes, [row for row in results if row["dataset"] == dataset]))
    return figure, panels


def _label(row: Result) -> str:
    return "SAC, DQN" if row["family"] in ("SAC", "DQN") else row["family"]


def _finish(figure: Figure, path: Path, handles: list[Line2D]) -> Path:
    """One legend below all panels; saved."""
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 7))
    figure.savefig(path, dpi=160)
    plt.close(figure)
    return path
