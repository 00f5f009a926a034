"""Time and memory of a head over a vocabulary: `python -m benchmarks.projection`, an hour on one core.

Each variant runs forward and backward in a process of its own. Of the calls after the first the fastest is kept, in
seconds of processor time (on a card, of the clock). Its excess memory is the peak of the process during one of them,
above what it held before, less the gradients that the call leaves behind (on a card, what PyTorch allocated).
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import offline_losses

RESULTS = Path(__file__).parent / "results" / "projection"
CLASSES = 151_936
SIZES = [(256, 64), (256, 512), (256, 2048), (1024, 64), (1024, 512), (1024, 2048)]
FIELDS = ["machine", "torch", "dtype", "size", "rows", "variant", "seconds", "excess_mib", "note"]
PATIENCE = 240
"""Seconds after which a variant is given up."""

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def formula(hidden: Tensor, head: Tensor, action: Tensor) -> Tensor:
    """The policy's loss as it is written, from all logits in single precision."""
    logits = (hidden @ head.mT).float()
    return -logits.log_softmax(-1).gather(-1, action.unsqueeze(-1)).mean()


def cross_entropy(hidden: Tensor, head: Tensor, action: Tensor) -> Tensor:
    """PyTorch's loss of all logits."""
    return functional.cross_entropy(hidden @ head.mT, action)


def chunked(rows: int | None) -> Loss:
    """PyTorch's loss of chunks of rows."""
    from torch.nn import LinearCrossEntropyOptions

    options = LinearCrossEntropyOptions() if rows is None else LinearCrossEntropyOptions(
        batch_chunk_size=rows, chunking_method=None)  # fmt: skip
    return lambda hidden, head, action: functional.linear_cross_entropy(hidden, head, action, options=options)


VARIANTS: dict[str, Callable[[], Loss]] = {
    "linear_log_prob": lambda: lambda *x: -offline_losses.linear_log_prob(*x).log_prob.mean(),
    "linear_nll_loss": lambda: offline_losses.linear_nll_loss,
    "linear_cql_penalty": lambda: lambda *x: offline_losses.linear_cql_penalty(*x, temperature=0.5),
    "formula": lambda: formula,
    "formula, compiled": lambda: torch.compile(formula),
    "cross_entropy": lambda: cross_entropy,
    "linear_cross_entropy": lambda: chunked(None),
    "linear_cross_entropy, 64 rows": lambda: chunked(64),
}


def measure(variant: str, size: int, rows: int, dtype: str, device: str, calls: int) -> dict[str, Any]:
    """One variant, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    given = {"device": device, "dtype": getattr(torch, dtype)}
    hidden = torch.randn(rows, size, **given).requires_grad_()
    head = torch.randn(CLASSES, size, **given).div_(size**0.5).requires_grad_()
    action = torch.randint(CLASSES, (rows,), device=device)
    loss, seconds = VARIANTS[variant](), []
    clock = time.process_time if device == "cpu" else time.perf_counter
    held = 0.0
    for _ in range(calls):
        hidden.grad = head.grad = None
        held = _held(device)
        begin = clock()
        loss(hidden, head, action).backward()
        peak = _peak(device)
        seconds.append(clock() - begin)
    gradients = sum(x.grad.numel() * x.grad.element_size() for x in (hidden, head) if x.grad is not None) / 2**20
    return {"seconds": round(min(seconds[1:]), 3), "excess_mib": round(peak - held - gradients, 1)}


def _held(device: str) -> float:
    """MiB in use, from which the next peak is counted."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls have freed is not in use
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / 2**20
    return _status("VmHWM")


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def machine(device: str) -> str:
    """What it ran on."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """All variants at all sizes that the flags leave, each row printed and kept as it comes."""
    parser = argparse.ArgumentParser(prog="benchmarks.projection", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--filter", default="", help="only rows whose dtype, size, rows and variant contain this")
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*json.loads(options.one))))
        return
    path = RESULTS / f"{machine(options.device).lower().replace(' ', '-')}.csv"
    for dtype in options.dtypes.split(","):
        for size, rows in SIZES:
            for variant in VARIANTS:
                if options.filter in f"{dtype} {size} {rows} {variant}":
                    asked = json.dumps([variant, size, rows, dtype, options.device, options.calls])
                    row = {"machine": machine(options.device), "torch": torch.__version__, "dtype": dtype}
                    row |= {"size": str(size), "rows": str(rows), "variant": variant, **_of_one(asked)}
                    print(*row.values(), sep="  ", flush=True)
                    keep(path, row)


def _of_one(asked: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.projection", "--one", asked]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return {"note": f"more than {PATIENCE} s"}
    if done.returncode:
        return {"note": (done.stderr.strip().splitlines() or ["no memory"])[-1][:120]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def keep(path: Path, row: dict[str, Any]) -> None:
    """The row in the file of this machine, in place of an older one."""
    key = FIELDS[2:6]
    rows = read(path) if path.exists() else []
    rows = [each for each in rows if any(str(each[name]) != str(row[name]) for name in key)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, restval="")
        writer.writeheader()
        writer.writerows([*rows, row])


def read(path: Path) -> list[dict[str, str]]:
    """The rows of one machine."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
