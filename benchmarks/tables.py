"""What the terminal shows: a line for each piece of work, and what became of the promises."""

from __future__ import annotations

from itertools import groupby

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Measurement
from benchmarks.summary import Verdict

OURS = ("eager", "compile", "fused")
TITLES = {
    "grid": "functions",
    "extra": "functions, other shapes",
    "returns": "a whole dataset",
    "update": "updates",
    "startup": "starting",
}
MARK = {True: "[green]kept[/]", False: "[red]missed[/]", None: "[dim]not measured[/]"}


def show_rows(rows: list[Measurement], console: Console) -> None:
    """One table for each group, times in microseconds; with the compiler's first calls where they were long."""
    for group, members in groupby(rows, lambda row: row.group):
        fast = "compiled" if group == "update" else "fused"
        table = Table(
            "work", "mode", *OURS[:2], fast, "others", "floor", "MB", "first call, s", title=f"{TITLES[group]} (µs)"
        )
        for (_, name, shape, mode), variants in groupby(members, lambda row: row.key):
            table.add_row(f"{name} {shape}", mode, *_cells({row.variant: row for row in variants}))
        console.print(table)


def show_verdicts(verdicts: list[Verdict], console: Console) -> None:
    table = Table("promise", "measured", "", title="promises")
    for verdict in verdicts:
        table.add_row(verdict.promise, verdict.measured, MARK[verdict.kept])
    console.print(table)


def microseconds(value: float | None) -> str:
    """Three significant digits, thousands apart."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _cells(variants: dict[str, Measurement]) -> list[str]:
    ours = ["compiled" if name == "fused" and "compiled" in variants else name for name in OURS]
    mine = [_figure(variants[name]) if name in variants else "" for name in ours]
    others = [f"{name} {_figure(row)}" for name, row in variants.items() if name not in ours]
    any_row = next(iter(variants.values()))
    memory = " ".join(microseconds(variants[name].peak_mb) for name in ours if name in variants)
    first = " ".join(f"{row.first_s:.1f}" for row in variants.values() if (row.first_s or 0) > 0.5)
    return [*mine, "\n".join(others), microseconds(any_row.floor_us), memory, first]


def _figure(row: Measurement) -> str:
    return microseconds(row.median_us) if row.status == "ok" else f"[red]{row.status}[/]"
