"""Times the library: `python -m benchmarks --sizes small`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's messages; read when torch is imported
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks import cases, many_runs, reading, updates
from benchmarks.measure import (
    Bench,
    Measurement,
    first_compilation,
    import_rows,
    merged,
    read_csv,
    results_file,
    stamp,
    warm_seconds,
    write_csv,
)
from benchmarks.summary import show_rows, show_verdicts, verdicts
from benchmarks.timing import Workload


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what the flags ask for; 1 if a variant computed something else, or one of ours failed."""
    options = _parser().parse_args(argv)
    console = Console() if sys.stdout.isatty() else Console(width=150)
    if options.report:
        from benchmarks.report import write_report

        console.print(f"wrote {write_report()}")
        return 0
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as fresh:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = options.cache or fresh
        rows = _measured(options, console)
    results = verdicts(rows)
    show_rows(rows, console)
    show_verdicts([verdict for verdict in results if options.filter is None or verdict.kept is not None], console)
    _save(rows, options)
    return int(any(row.broken for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    add = parser.add_argument
    add("--filter", metavar="TEXT", help="only the work whose name, shape and mode contain this")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--threads", type=int, default=1, help="of PyTorch, and with --peers the cores that all may use")
    add("--sizes", type=_sizes, default="small", help="small, full, or numbers of elements: 256,65536")
    add("--peers", action="store_true", help="also TorchRL, d3rlpy and JAX, where they are installed")
    add("--json", type=Path, metavar="FILE", help="write the rows there")
    add("--csv", action="store_true", help="keep the rows in this machine's file; with --filter, in place of that work")
    add("--report", action="store_true", help="only write docs/benchmarks.md anew, from benchmarks/results")
    add("--cache", metavar="DIR", help="the compiler's cache; an empty one if not given")
    return parser


def _sizes(text: str) -> tuple[int, ...]:
    return cases.SIZES[text] if text in cases.SIZES else tuple(int(size) for size in text.split(","))


def _measured(options: argparse.Namespace, console: Console) -> list[Measurement]:
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    if options.peers and device.type == "cpu":  # the peers have thread pools of their own
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    first_compilation(device)
    workloads = [work for work in _workloads(options) if options.filter is None or options.filter in str(work)]
    bench, rows = Bench(device), []
    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.description}"), console=console) as progress:
        task = progress.add_task("", total=len(workloads))
        for work in workloads:
            progress.update(task, description=str(work))
            rows += bench(work)
            progress.advance(task)
    if options.filter is None:
        rows = [*warm_seconds(rows, options), *import_rows(device)]
    return rows


def _workloads(options: argparse.Namespace) -> Iterator[Workload]:
    yield from cases.grid(options.sizes, options.peers)
    yield from cases.extras(options.peers)
    yield from cases.datasets(options.peers)
    yield from reading.readings()
    yield from updates.workloads(torch.device(options.device), options.peers)
    yield from many_runs.workloads(torch.device(options.device), options.peers)


def _save(rows: list[Measurement], options: argparse.Namespace) -> None:
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if options.csv and rows:
        path = results_file(stamp(torch.device(options.device)))
        kept = read_csv(path) if options.filter is not None and path.exists() else []
        write_csv(merged(kept, rows), path)


if __name__ == "__main__":
    raise SystemExit(main())
