"""One row of the results for each variant of each piece of work, and for what is paid before the first result."""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import (
    BUDGET,
    Maker,
    OutOfPatience,
    Times,
    Variant,
    Workload,
    agree,
    first_calls,
    interleave,
    peak_bytes,
    summarize,
)

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
OURS = ("eager", "fused", "compiled")
BUDGETS = {"update": 8.0, "runs": 8.0}  # seconds of samples for one piece of work, where it is not the usual


@dataclass(frozen=True)
class Measurement:
    """A row of the results. Times are of one run; `first_s` is of the calls that compile."""

    group: str
    name: str
    variant: str
    mode: str
    shape: str
    elements: int
    status: str = "ok"  # or "WRONG", "skipped: why", "failed: why"
    median_us: float | None = None
    p20_us: float | None = None
    p80_us: float | None = None
    samples: int | None = None
    floor_us: float | None = None
    first_s: float | None = None
    warm_s: float | None = None
    peak_mb: float | None = None
    note: str = ""
    device: str = ""
    machine: str = ""
    threads: int = 0
    torch: str = ""
    python: str = ""
    commit: str = ""
    date: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What is the same for all variants of one piece of work, on one machine."""
        return self.machine, self.name, self.shape, self.mode

    @property
    def broken(self) -> bool:
        """Whether it computed something else, or is ours and computed nothing."""
        return self.status == "WRONG" or (self.status.startswith("failed") and self.variant in OURS)


@dataclass(frozen=True)
class Bench:
    """Measures one piece of work after the other on one device."""

    device: torch.device
    given_up: set[tuple[str, str]] = field(default_factory=set)  # functions and the variants that never got ready

    def __call__(self, workload: Workload) -> list[Measurement]:
        """Makes the variants, compares their results with the first one's, then times all that agree."""
        torch.set_float32_matmul_precision(workload.precision)
        rows: dict[str, Measurement] = {}
        ready: dict[str, Variant] = {}
        expected: Any = None
        blank = {key: getattr(workload, key) for key in ("group", "name", "mode", "shape", "elements")}
        for name, make in workload.variants(self.device).items():
            row = Measurement(variant=name, **blank, **stamp(self.device))
            try:
                rows[name], variant, result = self._first(row, make)
            except Exception as error:  # one broken variant shall not end an hour of measuring
                kind = "skipped: " if isinstance(error, ImportError) else f"failed: {type(error).__name__}: "
                rows[name] = replace(row, status=f"{kind}{error}".partition("\n")[0])
                continue
            except OutOfPatience as error:
                self.given_up.add((workload.name, name))
                rows[name] = replace(row, status=f"skipped: {error}")
                continue
            expected = result if expected is None else expected
            if variant.tolerance is None or agree(result, expected, variant.tolerance):
                ready[name] = variant
            else:
                rows[name] = replace(rows[name], status="WRONG")
        del expected, result
        for name, times in self._times(ready, workload).items():
            scale = 1e6 / ready[name].work
            median, p20, p80 = times.median * scale, times.p20 * scale, times.p80 * scale
            rows[name] = replace(rows[name], median_us=median, p20_us=p20, p80_us=p80, samples=times.samples)
        floor = rows.pop("floor").median_us
        return [replace(row, floor_us=floor) for row in rows.values()]

    def _first(self, row: Measurement, make: Maker) -> tuple[Measurement, Variant, Any]:
        if (row.name, row.variant) in self.given_up:
            raise OutOfPatience("not compiled in time for another shape or mode")
        variant = make()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            seconds, result = first_calls(variant, self.device)
        said = [str(warning.message) for warning in caught if "offline_losses" in str(warning.message)]
        note = "; ".join(filter(None, [variant.note, *said]))
        peak = (variant.peak() if variant.peak else peak_bytes(variant.run, self.device)) / 2**20
        return replace(row, first_s=seconds, peak_mb=peak or None, note=note), variant, result  # None: not PyTorch's

    def _times(self, ready: dict[str, Variant], workload: Workload) -> dict[str, Times]:
        runs = {name: variant.run for name, variant in ready.items()}
        return interleave(runs, self.device, BUDGETS.get(workload.group, BUDGET))


@cache
def stamp(device: torch.device) -> dict[str, Any]:
    """Where and with what this was measured."""
    return {
        "device": device.type,
        "machine": _processor() if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": _commit(),
        "date": date.today().isoformat(),
    }


def results_file(stamp: dict[str, Any]) -> Path:
    """The file of this machine among the results that are kept."""
    return RESULTS / (re.sub(r"[^a-z0-9]+", "-", stamp["machine"].lower()).strip("-") + ".csv")


def merged(kept: Iterable[Measurement], new: Iterable[Measurement]) -> list[Measurement]:
    """All rows, each piece of work only as it was measured last, since rows of one run alone are compared."""
    works: dict[tuple[str, ...], list[Measurement]] = {}
    for rows in (kept, new):
        found: dict[tuple[str, ...], list[Measurement]] = {}
        for row in rows:
            found.setdefault(row.key, []).append(row)
        works |= found
    return [row for rows in works.values() for row in rows]


def write_csv(rows: Iterable[Measurement], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [column.name for column in fields(Measurement)])
        writer.writeheader()
        writer.writerows({key: _short(value) for key, value in asdict(row).items()} for row in rows)


def read_csv(path: Path) -> list[Measurement]:
    kinds = {column.name: str(column.type).partition(" ")[0] for column in fields(Measurement)}
    parse = {"int": int, "float": float, "str": str}
    with path.open(newline="") as file:
        return [
            Measurement(**{
                key: parse[kinds[key]](value) if value or kinds[key] == "str" else None for key, value in row.items()
            })
            for row in csv.DictReader(file)
        ]  # fmt: skip


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or a copy without its history
        return "unknown"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", information.read_text()) if information.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


WARMED = (
    "expectile_loss [",
    "cql_logsumexp_penalty [",
    "lambda_return [",
    "td3_bc_loss [",
    "IQL batch 256 u",
    "CQL batch 256 u",
)
"""The work that a second process is asked for, by what its name and shape contain."""

IMPORTS = 7


def first_compilation(device: torch.device) -> None:
    """Load the compiler, and let it find its own compiler, before anything is timed."""
    torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))


def import_rows(device: torch.device) -> list[Measurement]:
    """Seconds that a fresh interpreter takes to import torch, and to import the library with it, in turn."""
    samples: dict[str, list[float]] = {"torch": [], "offline_losses": []}
    for _ in range(IMPORTS):
        for name, seconds in samples.items():
            code = f"import time; t = time.perf_counter(); import {name}; print(time.perf_counter() - t)"
            seconds.append(float(_python("-c", code)))
    row = Measurement("startup", "import", "", "import", "", 0, **stamp(device))
    return [
        replace(row, variant=name, median_us=1e6 * times.median, p20_us=1e6 * times.p20, p80_us=1e6 * times.p80)
        for name, times in ((name, summarize(seconds)) for name, seconds in samples.items())
    ]


def warm_seconds(rows: list[Measurement], options: argparse.Namespace) -> list[Measurement]:
    """The rows, a few of them with the first call of a second process, which finds the compiler's cache full."""
    size, warm = options.sizes[0], {}
    with tempfile.TemporaryDirectory() as folder:
        for place, work in enumerate(WARMED):
            report = Path(folder) / f"{place}.json"
            flags = ["--sizes", str(size), "--device", options.device, "--threads", str(options.threads)]
            flags += ["--cache", os.environ["TORCHINDUCTOR_CACHE_DIR"], "--json", str(report)]
            _python("-m", "benchmarks", "--filter", work, *flags, check=False)  # its rows are what counts
            for row in json.loads(report.read_text() if report.exists() else "[]"):
                warm[row["name"], row["shape"], row["mode"], row["variant"]] = row["first_s"]
    return [replace(row, warm_s=warm.get((row.name, row.shape, row.mode, row.variant))) for row in rows]


def _python(*arguments: str, check: bool = True) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=check).stdout
