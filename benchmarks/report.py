"""docs/benchmarks.md, made of the results that are kept: nothing in it is written by hand but what stands here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import geometric_mean

from benchmarks.measure import RESULTS, ROOT, Measurement, read_csv
from benchmarks.plots import draw
from benchmarks.summary import losses, verdicts
from benchmarks.tables import microseconds
from benchmarks.variants import MODES

DOCS = ROOT / "docs"
MARK = {True: "kept", False: "**missed**", None: "not measured"}
OURS = ("eager", "compile", "fused", "compiled")
INTRODUCTION = """# Benchmarks

Made by `python -m benchmarks --report` from `benchmarks/results`; do not edit. `make bench` measures your machine,
`make bench-peers` with TorchRL, d3rlpy and JAX beside it.

- **eager** is the function as imported from `offline_losses`, **compile** the same in
  `torch.compile(function, dynamic=True)`, **fused** its namesake in `offline_losses.fused`.
- Of the updates, **eager** is made of our functions with a fused Adam, **compiled** the same through `compile_update`,
  and **corl** the same algorithm in the style of one-file implementations.
- The **floor** is a copy of the first input (which reads and writes as many bytes), or for an update its matrix
  products alone, into memory that is there already; on a card these are one CUDA graph, one product after the other.
- On a card an update is timed twice, the second time with float32 products on its tensor cores (TF32) in every variant.
- All variants of a piece of work run in turn in one process; times are medians, in microseconds, of float32 tensors.
  Before that, their values and gradients are compared.
- Forward and backward ends in `torch.autograd.grad`, so that no gradient is copied.
- d3rlpy gets its batch as tensors and TorchRL one backward pass of the sum of its losses, which spares both some work.
"""


def write_report(results: Path = RESULTS, docs: Path = DOCS) -> Path:
    """The page and its figures, one chapter for each machine."""
    chapters = [INTRODUCTION]
    for path in sorted(results.glob("*.csv")):
        rows = read_csv(path)
        figures = draw(rows, docs / "benchmarks", f"{path.stem}-")
        chapters.append("\n".join(_chapter(rows, [figure.relative_to(docs) for figure in figures])))
    page = docs / "benchmarks.md"
    page.write_text("\n".join(chapters))
    return page


def _chapter(rows: list[Measurement], figures: Sequence[Path]) -> Iterator[str]:
    yield f"## {rows[0].machine}\n"
    for threads, torch, python, commit, date in sorted(
        {(x.threads, x.torch, x.python, x.commit, x.date) for x in rows}, key=lambda run: run[::-1]
    ):
        many = "s" if threads > 1 else ""
        yield f"{threads} thread{many}, PyTorch {torch}, Python {python}, commit {commit}, {date}.\n"
    yield from (f"![{figure.stem}]({figure.as_posix()})\n" for figure in figures)
    yield "### Promises\n"
    promises = ([v.promise, v.measured.replace("\n", "<br>"), MARK[v.kept]] for v in verdicts(rows))
    yield from _table(["promise", "measured", ""], promises)
    for group, title in (("update", "One update"), ("returns", "A whole dataset"), ("extra", "Other shapes")):
        yield from _section(title, [row for row in rows if row.group == group])
    yield "### Every function, forward and backward\n"
    yield from _grid_table([row for row in rows if row.group == "grid" and row.mode == MODES[1]])
    yield "### Where we lose\n"
    lost = losses(rows)
    yield f"{len(lost)} pieces of work on which something else is faster than our fused or compiled variant.\n"
    yield from _table(
        ["work", "mode", "ours", "the fastest", "which is", "ours ÷ it"],
        (
            [f"`{x.row.name}` {x.row.shape}", x.row.mode, microseconds(x.ours), microseconds(x.best), x.winner,
             f"{x.ours / x.best:.2f}"]
            for x in lost
        ),
    )  # fmt: skip
    yield "### Compiling\n"
    yield "Seconds of the first call, with an empty cache and in a second process that finds it full.\n"
    warm = [row for row in rows if row.warm_s is not None and row.variant in OURS[1:]]
    columns = ["function", "mode", "variant", "empty cache", "full cache"]
    yield from _table(
        columns, ([f"`{x.name}`", x.mode, x.variant, f"{x.first_s:.2f}", f"{x.warm_s:.2f}"] for x in warm)
    )
    odd = sorted({(row.name, row.variant, row.status) for row in rows if row.status != "ok"})
    if odd:
        yield "### Not measured\n"
        yield from _table(["work", "variant", "why"], ([f"`{name}`", variant, why] for name, variant, why in odd))


def _section(title: str, rows: list[Measurement]) -> Iterator[str]:
    """A line for each variant; nothing if nothing was measured."""
    if not rows:
        return
    yield f"### {title}\n"
    lines = []
    for row in rows:
        times = floor = ""
        if row.median_us is not None:
            times = f"{microseconds(row.median_us)} ({microseconds(row.p20_us)}–{microseconds(row.p80_us)})"
            floor = f"{row.median_us / row.floor_us:.2f}" if row.floor_us else ""
        status = row.note if row.status == "ok" else row.status
        work = [f"`{row.name}` {row.shape}", row.mode, row.variant]
        lines.append([*work, times, floor, microseconds(row.peak_mb), status])
    yield from _table(["work", "mode", "variant", "µs (p20–p80)", "÷ floor", "peak MB", ""], lines)


def _grid_table(rows: list[Measurement]) -> Iterator[str]:
    """A line for each function and size, with the geometric mean of the gain for each size above."""
    works = {key: {row.variant: row for row in group} for key, group in groupby(rows, lambda row: row.key)}
    gains: dict[int, list[float]] = {}
    lines = []
    for variants in works.values():
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


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    yield from ("| " + " | ".join(line) + " |" for line in lines)
    yield ""
