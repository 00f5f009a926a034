"""docs/benchmarks.md and its figures, made of the results that are kept."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, product
from pathlib import Path
from statistics import geometric_mean
from textwrap import fill, indent
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from benchmarks.evaluation import EXPONENTIALS, LOOP
from benchmarks.measure import RESULTS, ROOT, Measurement, read_csv
from benchmarks.summary import losses, microseconds, verdicts, works_of
from benchmarks.timing import MODES

DOCS = ROOT / "docs"
MARK = {True: "kept", False: "**missed**", None: "not measured"}
OURS = ("eager", "compile", "fused", "compiled")
NAMES = ("IQL", "TD3+BC", "CQL")
GAIN = 1.05  # what compiling an update must gain to be called a gain
PROJECTED = (
    "linear_log_prob",
    "linear_nll_loss",
    "linear_cql_penalty",
    "cross_entropy",
    "formula, compiled",
    "formula",
    "linear_cross_entropy",
    "linear_cross_entropy, 64 rows",
)
GOALS = {
    "cross_entropy": 1.0,
    "formula, compiled": 1.2,
    "linear_cross_entropy": 0.75,
    "linear_cross_entropy, 64 rows": 0.75,
}
PROJECTION = """Other processes ran on the two cores: a ratio is right to about a tenth. What is missed, and why:

- `linear_log_prob` keeps no logits and does not know what its rows are weighed with, so it computes them twice: four
  products of matrices, where a formula that keeps them takes three. Products ran at 95 GFLOP/s, so that at [512, 1024]
  three take 5.0 s and four 6.7 s. With 256 dimensions it makes up for that, with 1024 it cannot.
- This processor multiplies bfloat16 2.2 times as fast, with results rounded to eight bits. Ours multiplies in float32:
  beside float64 the losses of 64 rows were wrong by 7·10⁻⁸ of the largest, those of `cross_entropy` by 2·10⁻³. One
  float32 product of exact logits and two of bfloat16 would be the floor, 3.2 s at [512, 1024].
- PyTorch's own operator in chunks of 64 rows takes about as long here as `cross_entropy`, with 149 to 602 MiB. Three
  quarters of its time are 1.4 s at [512, 256] and 5.5 s at [512, 1024], of which three products take 1.3 s and 5.0 s.
- The memory of `linear_nll_loss` and `linear_cql_penalty` is that of 64 rows over all classes with 256 dimensions (37
  MiB), of 256 rows with 1024. It does not grow with the rows beyond that but by what the hidden states take themselves.
"""
COLUMNS = {
    "corl": "one-file style",
    "eager": "eager",
    "compiled": "compiled",
    "jax": "jitted JAX",
    "floor": "products alone",
}
TITLE = """<!-- Written by `python -m benchmarks --report`. -->

# Benchmarks

What an update takes, and what every function takes, measured on one thread of two processors. `make bench` measures
yours, `make bench-peers` with TorchRL, d3rlpy and JAX beside it.
"""
METHOD = """- **eager** is the function as imported from `offline_losses`, **compile** the same in
  `torch.compile(function, dynamic=True)`, **fused** its namesake in `offline_losses.fused`.
- Of the updates, **eager** is made of our functions with a fused Adam, **compiled** the same through `compile_update`,
  and **corl** (one-file style) the same algorithm in the style of one-file implementations.
- **one by one** is eight times the compiled update of one run, beside the compiled update of eight runs, each with
  parameters, a batch and an optimizer's state of its own; JAX maps its jitted step over the runs (`jax.vmap`).
- The **floor** is a copy of the first input (which reads and writes as many bytes), or for an update its matrix
  products alone, into memory that is there already; on a card these are one CUDA graph, one product after the other.
- On a card an update is timed twice, the second time with float32 products on its tensor cores (TF32) in every variant.
- All variants of a piece of work run in turn in one process; times are medians, in microseconds, of float32 tensors.
  Before that, their values and gradients are compared.
- Forward and backward ends in `torch.autograd.grad`, so that no gradient is copied.
- d3rlpy gets its batch as tensors and TorchRL one backward pass of the sum of its losses, which spares both some work.
"""


def write_report(results: Path = RESULTS, docs: Path = DOCS) -> Path:
    """The page and its figures: the updates of all machines first, then all that was measured, folded."""
    runs = {path.stem: read_csv(path) for path in sorted(results.glob("*.csv"))}
    figures = {stem: draw(rows, docs / "benchmarks", f"{stem}-") for stem, rows in runs.items()}
    drawn = [path.relative_to(docs) for paths in figures.values() for path in paths]
    lines = [TITLE, *_opening(list(runs.values()), drawn), _folded("How it was measured", [METHOD])]
    for path in sorted((results / "evaluation").glob("*.csv")):
        lines += _evaluation(path)
    for path in sorted((results / "projection").glob("*.csv")):
        lines += _projection(path)
    for stem, rows in runs.items():
        lines += _chapter(rows, [path.relative_to(docs) for path in figures[stem]])
    page = docs / "benchmarks.md"
    page.write_text("\n".join(lines).rstrip() + "\n")
    return page


def _opening(machines: list[list[Measurement]], figures: Sequence[Path]) -> Iterator[str]:
    """One figure, one table, and a sentence about each update that compiling does not make faster."""
    drawn = next((path for path in figures if "updates" in path.stem), None)
    updates = [work for rows in machines for work in works_of(rows) if work.row.group == "update"]
    if drawn:
        yield _figure(drawn, updates[0].row.machine)
    yield "Milliseconds for one update of 256 transitions, with two hidden layers of 256 units:\n"
    lines = []
    for work in sorted(updates, key=lambda work: NAMES.index(work.row.name)):
        times = [f"{work.times[name] / 1e3:.1f}" if name in work.times else "" for name in COLUMNS]
        lines.append([f"{work.row.name}, {_short(work.row.machine)}", *times])
    yield from _table(["update", *COLUMNS.values()], lines)
    ratios = [(work, ratio) for work in updates if (ratio := work.ratio("compiled", "eager"))]
    for name in dict.fromkeys(work.row.name for work, ratio in ratios if ratio * GAIN > 1):
        slow = [(work, ratio) for work, ratio in ratios if work.row.name == name]
        taken = " and ".join(f"{ratio:.2f}" for _, ratio in slow)
        shares = [100 / ratio for work, _ in slow if (ratio := work.ratio("eager", "floor"))]
        text = (
            f"**Compiling does not help the {name} update here**: compiled it takes {taken} of eager's time. Of that "
            f"at least {min(shares):.0f} % are matrix products already, which no compiler makes faster."
        )
        yield fill(text, 119) + "\n"


def _evaluation(path: Path) -> Iterator[str]:
    """What judging a policy on a large log takes."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    text = (
        "To judge a policy on ten million steps in 100 000 episodes of unequal length, in seconds of one thread of "
        f"{_short(rows[0]['machine'])}, PyTorch {rows[0]['torch']} (`python -m benchmarks.evaluation`):"
    )
    yield fill(text, 119) + "\n"
    table = ([_named(row["name"]), row["seconds"], row["ratio"]] for row in rows)
    yield from _table(["", "seconds", "÷ `discounted_return`"], table)
    seconds = {row["name"]: float(row["seconds"]) for row in rows}
    if EXPONENTIALS in seconds:
        loop, ours, least = (seconds[name] for name in (LOOP, "per_decision_value", EXPONENTIALS))
        text = (
            f"A NumPy loop over episodes takes {loop / ours:.1f} times as long as `per_decision_value`. A twentieth "
            f"of its time is {50 * loop:.0f} ms, of which the exponentials of the weights, in double precision, take "
            f"{1e3 * least:.0f} alone; the running sum of the log-ratios, the sum of each episode that it starts from, "
            f"the discounts and the sum of the rewards are passes of their own over a block in the cache. "
            "`magic_value` goes through the log once for each draw."
        )
        yield fill(text, 119) + "\n"


def _projection(path: Path) -> Iterator[str]:
    """What a head over a vocabulary takes, beside the goals of its time."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    text = (
        "Forward and backward through a head over 151 936 classes, in processor seconds and MiB beyond the gradients, "
        f"one thread of {_short(rows[0]['machine'])}, PyTorch {rows[0]['torch']} (`python -m benchmarks.projection`):"
    )
    yield fill(text, 119) + "\n"
    found = {(row["dtype"], row["size"], row["rows"], row["variant"]): row for row in rows}
    sizes = sorted({key[:3] for key in found}, key=lambda x: (x[0] != "float32", int(x[1]), int(x[2])))
    variants = [name for name in PROJECTED if any(key[3] == name for key in found)]
    table = [[f"{dtype} [{count}, {width}]: {count} states of {width} numbers"] for dtype, width, count in sizes]
    for size, line in zip(sizes, table, strict=True):
        for variant in variants:
            row = found.get((*size, variant), {"seconds": "", "excess_mib": "", "note": ""})
            measured = f"{float(row['seconds']):.2f} s<br>{float(row['excess_mib']):.0f} MiB" if row["seconds"] else ""
            line.append(measured or row["note"])
    yield from _table(["hidden states", *(_named(name) for name in variants)], table)
    yield from _table(["÷", "aimed at", *(" ".join([x[0], f"[{x[2]}, {x[1]}]"]) for x in sizes)], [
        [f"{_named(ours)} ÷ {_named(other)}", f"≤ {goal}", *(_beside(found, size, ours, other, goal) for size in sizes)]
        for ours in PROJECTED[:3]
        for other, goal in GOALS.items()
    ])  # fmt: skip
    yield PROJECTION


def _beside(
    found: dict[tuple[str, ...], dict[str, str]], size: tuple[str, ...], ours: str, other: str, goal: float
) -> str:
    """Ours over another, marked where it misses the goal."""
    seconds = [found.get((*size, name), {}).get("seconds") for name in (ours, other)]
    if not all(seconds):
        return ""
    ratio = float(seconds[0] or 0) / float(seconds[1] or 1)
    return f"{ratio:.2f}" if ratio <= goal else f"**{ratio:.2f}**"


def _named(name: str) -> str:
    return f"`{name}`" if name.isidentifier() else name


def _chapter(rows: list[Measurement], figures: Sequence[Path]) -> Iterator[str]:
    yield f"## {_short(rows[0].machine)}\n"
    for threads, torch, python, commit, date in sorted(
        {(x.threads, x.torch, x.python, x.commit, x.date) for x in rows}, key=lambda run: run[::-1]
    ):
        many = "s" if threads > 1 else ""
        yield f"{threads} thread{many}, PyTorch {torch}, Python {python}, commit {commit}, {date}.\n"
    promises = ([v.promise, v.measured.replace("\n", "<br>"), MARK[v.kept]] for v in verdicts(rows))
    yield _folded("What was aimed at, and what was reached", _table(["promise", "measured", ""], promises))
    for group, title in (
        ("update", "One update"),
        ("runs", "Eight runs in one update"),
        ("returns", "A whole dataset"),
        ("reading", "Reading"),
        ("extra", "Other shapes"),
    ):
        yield _folded(title, _section([row for row in rows if row.group == group]))
    drawn = (_figure(path, rows[0].machine) for path in figures)
    grid = _grid_table([row for row in rows if row.group == "grid" and row.mode == MODES[1]])
    yield _folded("Every function, forward and backward", [*drawn, *grid])
    lost = losses(rows)
    yield _folded(
        f"Where we lose: {len(lost)} pieces of work on which something else is faster",
        _table(
            ["work", "ours", "the fastest", "which is", "ours ÷ it"],
            (
                [
                    _work(x.row),
                    microseconds(x.ours),
                    microseconds(x.best),
                    x.winner,
                    f"{x.ours / x.best:.2f}",
                ]
                for x in lost
            ),
        ),
    )
    warm = [row for row in rows if row.warm_s is not None and row.variant in OURS[1:]]
    lines = ([_work(x), x.variant, f"{x.first_s:.2f}", f"{x.warm_s:.2f}"] for x in warm)
    yield _folded(
        "Seconds of the first call, with an empty cache and in a second process that finds it full",
        _table(["work", "variant", "empty cache", "full cache"], lines),
    )
    odd = sorted({(row.name, row.variant, row.status) for row in rows if row.status != "ok"})
    if odd:
        lines = ([f"`{name}`", variant, why] for name, variant, why in odd)
        yield _folded("Not measured", _table(["work", "variant", "why"], lines))


def _section(rows: list[Measurement]) -> Iterator[str]:
    """A line for each variant; nothing if nothing was measured."""
    lines = []
    for row in rows:
        times = floor = ""
        if row.median_us is not None:
            times = f"{microseconds(row.median_us)} ({microseconds(row.p20_us)}–{microseconds(row.p80_us)})"
            floor = f"{row.median_us / row.floor_us:.2f}" if row.floor_us else ""
        status = row.note if row.status == "ok" else row.status
        lines.append([_work(row), row.variant, times, floor, microseconds(row.peak_mb), status])
    if lines:
        yield from _table(["work", "variant", "µs (p20–p80)", "÷ floor", "peak MB", ""], lines)


def _grid_table(rows: list[Measurement]) -> Iterator[str]:
    """A line for each function and size, with the geometric mean of the gain for each size above."""
    variants_of = {key: {row.variant: row for row in group} for key, group in groupby(rows, lambda row: row.key)}
    gains: dict[int, list[float]] = {}
    lines = []
    for variants in variants_of.values():
        any_row = next(iter(variants.values()))
        times = {name: row.median_us for name, row in variants.items() if row.median_us is not None}
        if {"eager", "fused"} <= times.keys():
            gains.setdefault(any_row.elements, []).append(times["eager"] / times["fused"])
        ours = [microseconds(times.get(name)) for name in OURS[:3]]
        others = ", ".join(f"{name} {microseconds(time)}" for name, time in times.items() if name not in OURS)
        lines.append([f"`{any_row.name}` {any_row.shape}", *ours, others, microseconds(any_row.floor_us)])
    means = ([f"{size:,}", f"{geometric_mean(values):.2f}"] for size, values in sorted(gains.items()))
    yield from _table(["elements", "eager ÷ fused, geometric mean"], means)
    yield from _table(["function", *OURS[:3], "others", "floor"], lines)


def _short(machine: str) -> str:
    """A processor's name without what says nothing."""
    return " ".join(re.sub(r"\((R|TM)\)|\b(CPU|Processor)\b", "", machine).split())


def _work(row: Measurement) -> str:
    return f"`{row.name}` {row.shape}" + ("" if row.mode in (row.group, MODES[1]) else f", {row.mode}")


def _figure(path: Path, machine: str) -> str:
    subject = "One update" if "updates" in path.stem else "Eager over fused, for each function and size"
    return f"![{subject}, {_short(machine)}]({path.as_posix()})\n"


def _folded(title: str, lines: Iterable[str]) -> str:
    """Shown when its title is clicked; nothing of nothing."""
    text = "\n".join(lines)
    return f'??? note "{title}"\n\n{indent(text, "    ")}\n' if text else ""


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    yield from ("| " + " | ".join(line) + " |" for line in lines)
    yield ""


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
BLUE, GRAY, ORANGE = "#0072B2", "#999999", "#D55E00"


def draw(rows: list[Measurement], folder: Path, prefix: str) -> list[Path]:
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
    figure = plt.figure(figsize=(4.4 * len(shapes), 1.7 * len(names)), layout="constrained")  # narrow, for a phone
    panels = figure.subplots(len(names), len(shapes), squeeze=False)
    for axes, (name, shape) in zip(panels.flat, product(names, shapes), strict=True):
        bars = [row for row in updates if (row.name, row.shape) == (name, shape)]
        if not bars:
            axes.set_axis_off()
            continue
        bars.sort(key=lambda row: -_milliseconds(row.median_us))
        spread = [[_milliseconds(row.median_us) - _milliseconds(row.p20_us) for row in bars],
                  [_milliseconds(row.p80_us) - _milliseconds(row.median_us) for row in bars]]  # fmt: skip
        colors = [BLUE if row.variant in ("eager", "compiled") else GRAY for row in bars]
        heights = [_milliseconds(row.median_us) for row in bars]
        axes.barh(
            [row.variant for row in bars],
            heights,
            xerr=spread,
            color=colors,
            error_kw={"linewidth": 0.8, "ecolor": INK},
        )
        axes.axvline(_milliseconds(bars[0].floor_us), color=ORANGE, linewidth=1, label="its matrix products alone")
        axes.set(title=f"{name}, {shape}: milliseconds for one update")
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
    axes.imshow(cells, norm=LogNorm(0.5, 8), cmap="RdYlGn", aspect="auto")
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
