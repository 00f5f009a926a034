"""What is paid before the first result: importing, and compiling with an empty cache and with a full one."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.measure import ROOT, Measurement, stamp
from benchmarks.timing import summarize

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
