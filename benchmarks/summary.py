"""The promises about speed, each with the number that was measured, and what the terminal shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby, product
from statistics import geometric_mean
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import many_runs
from benchmarks.cases import CQL, CQL_SHAPES
from benchmarks.measure import Measurement
from benchmarks.networks import BATCH, TF32
from benchmarks.reading import EPISODES, ROW_BYTES, STEPS
from benchmarks.timing import MODES, shape_text

ELEMENTWISE = ("squared_loss", "huber_loss", "expectile_loss", "quantile_loss", "nll_loss", "sac_policy_loss")
LARGE = 4_194_304


class Verdict(NamedTuple):
    """A promise, what was measured, and whether it is kept; None if nothing was measured."""

    promise: str
    measured: str
    kept: bool | None


class Work(NamedTuple):
    """The times of all variants of one piece of work, in microseconds."""

    row: Measurement
    times: dict[str, float]

    @property
    def label(self) -> str:
        return f"{self.row.name} {self.row.shape}"

    def ratio(self, slow: str, fast: str) -> float | None:
        """How many times as long the first takes as the second."""
        return self.times[slow] / self.times[fast] if {slow, fast} <= self.times.keys() else None


def verdicts(rows: Iterable[Measurement]) -> list[Verdict]:
    """All promises, of the rows of one machine."""
    rows = list(rows)
    works = works_of(rows)
    device = works[0].row.device if works else "cpu"
    grid = [work for work in works if work.row.group == "grid" and work.row.mode == MODES[1]]
    found = [_no_slower(grid), _geometric_mean(grid), *_vocabulary(works), *_returns(works)]
    if device == "cuda":
        found += _cuda_updates(works)
    else:
        found += [_near_the_copy(grid), *_updates(works), *_many_runs(works)]
    found += _readings(rows)
    imports = _find(works, "import")("offline_losses", "torch")
    return [*found, _verdict("import offline_losses ≤ 1.05 × import torch", imports, 1.05)]


class Loss(NamedTuple):
    """A piece of work that something else does faster than our fast variant."""

    row: Measurement
    ours: float
    best: float
    winner: str


def losses(rows: Iterable[Measurement]) -> list[Loss]:
    """Wherever another variant is faster than the fused or compiled one, the worst first."""
    found = []
    for work in works_of(rows):
        ours = next((name for name in ("fused", "compiled") if name in work.times), None)
        others = {name: time for name, time in work.times.items() if name not in (ours, "floor")}
        if ours and others:
            winner = min(others, key=others.__getitem__)
            found.append(Loss(work.row, work.times[ours], others[winner], winner))
    return sorted((loss for loss in found if loss.best < loss.ours), key=lambda loss: loss.best / loss.ours)


def works_of(rows: Iterable[Measurement]) -> list[Work]:
    """The pieces of work that the rows are about."""
    works: dict[tuple[str, ...], Work] = {}
    for row in rows:
        work = works.setdefault(row.key, Work(row, {} if row.floor_us is None else {"floor": row.floor_us}))
        if row.status == "ok" and row.median_us is not None:
            work.times[row.variant] = row.median_us
    return list(works.values())


def _verdict(promise: str, ratio: float | None, limit: float, at_least: bool = False) -> Verdict:
    """A ratio and its limit, from above or below."""
    kept = None if ratio is None else (ratio >= limit if at_least else ratio <= limit)
    return Verdict(promise, "" if ratio is None else f"{ratio:.2f}", kept)


def _no_slower(grid: list[Work]) -> Verdict:
    promise = "fused ≤ 1.05 × the faster of eager and plain torch.compile, everywhere"
    ratios = {
        work.label: work.times["fused"] / min(work.times[name] for name in ("eager", "compile") if name in work.times)
        for work in grid
        if "fused" in work.times and {"eager", "compile"} & work.times.keys()
    }
    slower = sorted((label for label in ratios if ratios[label] > 1.05), key=lambda label: -ratios[label])
    measured = f"{len(ratios) - len(slower)} of {len(ratios)}" + "".join(f"\n{ratios[x]:.2f} {x}" for x in slower)
    return Verdict(promise, measured, not slower if ratios else None)


def _geometric_mean(grid: list[Work]) -> Verdict:
    ratios = [ratio for work in grid if (ratio := work.ratio("eager", "fused"))]
    promise = "eager ÷ fused ≥ 3, the geometric mean of the grid forward and backward"
    return _verdict(promise, geometric_mean(ratios) if ratios else None, 3, at_least=True)


def _near_the_copy(grid: list[Work]) -> Verdict:
    works = [work for work in grid if work.row.name in ELEMENTWISE and work.row.elements == LARGE]
    ratios = {work.row.name: ratio for work in works if (ratio := work.ratio("fused", "floor"))}
    measured = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    promise = "element-wise losses of 4M numbers, forward and backward ≤ 2 × a copy"
    return Verdict(promise, measured, max(ratios.values()) <= 2 if ratios else None)


def _vocabulary(works: list[Work]) -> list[Verdict]:
    work = _find(works, CQL, MODES[1], shape_text(CQL_SHAPES[-1]))
    logits = _find(works, f"{CQL} of logits", MODES[1], shape_text(CQL_SHAPES[-1]))
    what = "CQL over 50 257 actions, forward and backward"
    return [
        _verdict(f"{what}: eager ÷ fused ≥ 2.5", work("eager", "fused"), 2.5, at_least=True),
        _verdict(f"{what}: F.cross_entropy ÷ fused > 1", work("cross_entropy", "fused"), 1, at_least=True),
        _verdict("the same, with the gather: F.cross_entropy ÷ fused > 1", logits("cross_entropy", "fused"), 1, True),
    ]


def _updates(works: list[Work]) -> list[Verdict]:
    found = []
    for name in ("IQL", "TD3+BC"):
        work = _find(works, name)
        found += [
            _verdict(f"{name}: compiled ≤ 1.3 × its matrix products", work("compiled", "floor"), 1.3),
            _verdict(f"{name}: CORL style ÷ compiled ≥ 1.6", work("corl", "compiled"), 1.6, at_least=True),
            _verdict(f"{name}: jitted JAX ÷ compiled ≥ 1", work("jax", "compiled"), 1, at_least=True),
        ]
    work = _find(works, "CQL")
    return [
        *found,
        _verdict("CQL: TorchRL ÷ compiled > 1", work("torchrl", "compiled"), 1, at_least=True),
        _verdict("CQL: d3rlpy ÷ compiled > 1", work("d3rlpy", "compiled"), 1, at_least=True),
    ]


def _many_runs(works: list[Work]) -> list[Verdict]:
    """An update of eight runs beside eight of one."""
    found = []
    for threads, name, hidden in product((1, 2), many_runs.UPDATES, many_runs.WIDTHS):
        shape = many_runs.shape(hidden, threads)
        if threads > 1 and not any(work.row.shape == shape for work in works):
            continue
        work = _find(works, many_runs.title(name), shape=shape)
        what = f"{many_runs.title(name)}, {shape}"
        one = work("compiled", "one by one")
        found += [
            _verdict(f"{what}: compiled ≤ 3 × one run", one and many_runs.RUNS * one, 3)
            if hidden == many_runs.WIDTHS[0]
            else _verdict(f"{what}: compiled ≤ 1.02 × the matrix products", work("compiled", "floor"), 1.02),
            _verdict(f"{what}: JAX, jitted and mapped ÷ compiled ≥ 1.1", work("jax", "compiled"), 1.1, True),
        ]
    return found


def _cuda_updates(works: list[Work]) -> list[Verdict]:
    found = []
    for shape in (f"batch {BATCH}", TF32):
        times = next((work.times for work in works if (work.row.name, work.row.shape) == ("IQL", shape)), {})
        milliseconds = times["compiled"] / 1e3 if "compiled" in times else None
        jitted = _find(works, "IQL", shape=shape)("jax", "compiled")
        found += [
            _verdict(f"IQL, {shape}: one compiled update ≤ 0.2 ms", milliseconds, 0.2),
            _verdict(f"IQL, {shape}: jitted JAX ÷ compiled ≥ 1", jitted, 1, at_least=True),
        ]
    return found


def _returns(works: list[Work]) -> list[Verdict]:
    found = []
    whole = [work for work in works if work.row.group == "returns"]
    for name in ("discounted_return", "return_filter"):
        work = _find(whole, name)
        promise = f"{name} of 10M steps: NumPy loop ÷ fused ≥ 50"
        found.append(_verdict(promise, work("numpy loop", "fused"), 50, at_least=True))
    promise = "discounted_return of 10M steps: TorchRL ÷ fused > 1"
    found.append(_verdict(promise, _find(whole, "discounted_return")("torchrl", "fused"), 1, at_least=True))
    advantage = _find(works, "generalized_advantage", MODES[0], shape_text((256, 1000)))
    promise = "generalized_advantage of 256 × 1000 steps: TorchRL ÷ fused > 1"
    return [*found, _verdict(promise, advantage("torchrl", "fused"), 1, at_least=True)]


def _readings(rows: Iterable[Measurement]) -> list[Verdict]:
    """Of a million steps, of the dataset of the most episodes."""
    found: dict[str, Measurement] = {}
    for row in rows:
        if row.group == "reading" and row.variant == "eager" and f" {max(EPISODES):,} " in row.name:
            found[row.name.partition(",")[2].partition(",")[2].strip()] = row
    peaks = {kind: row.peak_mb for kind, row in found.items() if row.peak_mb}
    again = found["kept in a cache"].median_us if "kept in a cache" in found else None
    columns = ROW_BYTES * STEPS / 2**20
    what = f"load_minari of {max(EPISODES):,} episodes"
    return [
        _verdict(f"{what}: memory ≤ 1.3 × the columns", peaks[""] / columns if "" in peaks else None, 1.3),
        _verdict(f"{what}: megabytes on the way into a folder ≤ 300", peaks.get("into a folder"), 300),
        _verdict(f"{what}: seconds of a second reading ≤ 1", again / 1e6 if again else None, 1),
    ]


def _find(
    works: list[Work], name: str, mode: str | None = None, shape: str | None = None
) -> Callable[[str, str], float | None]:
    """The ratios of the piece of work that these words name; none if it was not measured."""
    for work in works:
        if work.row.name == name and mode in (None, work.row.mode) and shape in (None, work.row.shape):
            return work.ratio
    return lambda slow, fast: None


OURS = ("eager", "compile", "fused")
TITLES = {
    "grid": "functions",
    "extra": "functions, other shapes",
    "returns": "a whole dataset",
    "reading": "reading a dataset",
    "update": "updates",
    "runs": "many runs in one update",
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
