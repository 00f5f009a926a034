"""One way to do a piece of work, the least that it can take, and samples of all ways in turn."""

from __future__ import annotations

import gc
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import torch
from ledger import leaves
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

Run: TypeAlias = Callable[[], Any]
Maker: TypeAlias = "Callable[[], Variant]"
Variants: TypeAlias = "dict[str, Maker]"

MODES = ("forward", "forward+backward")
TOLERANCE = 1e-4
PATIENCE = 30.0  # for plain torch.compile, to which a recurrence with symbolic sizes is minutes of work


@dataclass(frozen=True)
class Variant:
    """`run` does the work once and returns what it computed."""

    run: Run
    work: float = 1.0  # the share of the whole that a run does; its time is divided by it
    tolerance: float | None = (
        TOLERANCE  # of its results, against the first variant's; None: there is nothing to compare
    )
    note: str = ""
    calls: int = 1  # before it is ready; the last of them is compared
    patience: float | None = None  # seconds for these calls, which may have to compile
    peak: Callable[[], int] | None = None  # bytes, where PyTorch's own count says little


@dataclass(frozen=True)
class Workload:
    """A piece of work and the variants that do it, the first being the reference; to make one may raise ImportError."""

    group: str
    name: str
    shape: str
    mode: str
    elements: int
    variants: Callable[[torch.device], Variants]
    precision: str = "highest"  # of products of float32, in the words of PyTorch

    def __str__(self) -> str:
        return f"{self.name} {self.shape} {self.mode}"


def run_of(function: Callable[..., Any], arguments: Mapping[str, Any], mode: str) -> Run:
    """A call that computes the results and, for forward+backward, the gradient of whatever requires one."""
    if mode == "forward":
        return lambda: leaves(function(**arguments))
    inputs = [value for value in arguments.values() if isinstance(value, Tensor) and value.requires_grad]
    factors: list[Tensor | None] = []

    def run() -> list[Tensor | None]:
        results = [leaf for leaf in leaves(function(**arguments)) if leaf.requires_grad]
        if not factors:  # made in the first call, which is the one that compiles
            factors.extend(cotangents(results))
        return [*results, *torch.autograd.grad(results, inputs, factors, allow_unused=True)]

    return run


def maker(function: Callable[..., Any], arguments: Mapping[str, Any], mode: str, **fields: Any) -> Maker:
    """The variant that calls this function."""
    return lambda: Variant(run_of(function, arguments, mode), **fields)


def cotangents(results: Sequence[Tensor]) -> list[Tensor | None]:
    """One fixed factor for each element of a result; a number needs none."""
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(x.shape, generator=generator).to(x.device) if x.ndim else None for x in results]


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """What one line around a function gives its user."""
    return torch.compile(function, dynamic=True)


def shape_text(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(str(side) for side in shape) + "]"


Product: TypeAlias = tuple[int, int, int]  # [m, k] times [k, n]


def clone_floor(tensor: Tensor) -> Variant:
    """Reads and writes as many bytes as the first input has."""
    return Variant(tensor.detach().clone, tolerance=None)


def product_floor(products: list[Product], device: torch.device) -> Variant:
    """The matrix products alone, into memory that is there already; on a card one CUDA graph of them."""
    operands = [
        (torch.randn(m, k, device=device), torch.randn(k, n, device=device), torch.empty(m, n, device=device))
        for m, k, n in products
    ]

    def run() -> None:
        for left, right, out in operands:
            torch.mm(left, right, out=out)

    if device.type == "cpu":
        return Variant(run, tolerance=None)
    run()  # what a first product prepares cannot be recorded
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()

    def replay() -> int:
        graph.replay()
        return len(operands)  # which the graph reads and writes, and does not hold

    return Variant(replay, tolerance=None)


def passes(rows: int, widths: tuple[int, ...], *, weights: bool = False, inputs: bool = False) -> Iterator[Product]:
    """Products of one network: forward, and backward to its weights, to its input, to both or to neither."""
    layers = list(pairwise(widths))
    yield from ((rows, into, out) for into, out in layers)
    for layer, (into, out) in enumerate(layers):
        if weights:
            yield out, rows, into
        if inputs or (weights and layer > 0):
            yield rows, out, into


BUDGET = 0.6  # seconds for all samples of one piece of work; more if the fewest rounds take longer
BLOCK = {"cpu": 1e-3, "cuda": 3e-3}  # seconds of one sample at least: many calls of a short function
ROUNDS = (5, 100)


@dataclass(frozen=True)
class Times:
    """Seconds of one run: the median and the spread of the samples."""

    median: float
    p20: float
    p80: float
    samples: int


def interleave(runs: Mapping[str, Run], device: torch.device, budget: float) -> dict[str, Times]:
    """Seconds of one call of each, from blocks of calls, in a new order each round.

    What runs before a block has filled the processor's caches with its own code, which costs the block's first call a
    few microseconds, so that no one shall always come after the same other one.
    """
    once = {name: _block(run, 1, device) for name, run in runs.items()}
    calls = {name: max(1, round(BLOCK[device.type] / max(seconds, 1e-7))) for name, seconds in once.items()}
    one_round = sum(once[name] * calls[name] for name in runs)
    rounds = int(min(max(budget / one_round, ROUNDS[0]), ROUNDS[1]))
    samples: dict[str, list[float]] = {name: [] for name in runs}
    names, order = list(runs), random.Random(0)
    with _no_collection():
        for _ in range(rounds):
            order.shuffle(names)
            for name in names:
                samples[name].append(_block(runs[name], calls[name], device) / calls[name])
    return {name: summarize(values) for name, values in samples.items()}


def summarize(samples: list[float]) -> Times:
    """The median and the spread of seconds."""
    quantiles = statistics.quantiles(samples, n=5, method="inclusive")
    return Times(statistics.median(samples), quantiles[0], quantiles[3], len(samples))


class OutOfPatience(BaseException):
    """Not an Exception, so that no handler inside a compiler takes it for an error of its own."""


def first_calls(variant: Variant, device: torch.device) -> tuple[float, Any]:
    """Seconds of the calls that make a variant ready, and the last result; OutOfPatience if they take too long."""

    def give_up(*_: object) -> None:
        raise OutOfPatience(f"not compiled after {variant.patience:.0f} s")

    _synchronize(device)
    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, variant.patience or 0)
    try:
        started = time.perf_counter()
        for _ in range(variant.calls):
            result = variant.run()
        _finish(result, device)
        return time.perf_counter() - started, result
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def agree(actual: Any, expected: Any, tolerance: float) -> bool:
    """Whether all results of `actual` are those of `expected`, relative to each number or to their usual size."""
    pairs = zip(_flat(actual), _flat(expected), strict=False)  # a peer may return less
    return all(_close(one, other, tolerance) for one, other in pairs)


def peak_bytes(run: Run, device: torch.device) -> int:
    """The most memory that a call holds at once, beyond what was held before it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - held
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    held = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def _flat(result: Any) -> list[Tensor | None]:
    parts = [result[name] for name in sorted(result)] if isinstance(result, Mapping) else result
    return [None if part is None else _on_cpu(part) for part in parts]


def _on_cpu(part: Any) -> Tensor:
    tensor = part.detach() if isinstance(part, Tensor) else torch.from_numpy(np.array(part))  # JAX gives an array
    return tensor.cpu().double()


def _close(actual: Tensor | None, expected: Tensor | None, tolerance: float) -> bool:
    if actual is None or expected is None:  # no gradient is a gradient of zero
        return all(one is None or not one.any() for one in (actual, expected))
    if actual.shape != expected.shape:
        return False
    usual = expected[expected.isfinite()].square().mean().sqrt().nan_to_num()
    near = (actual - expected).abs() <= tolerance * (expected.abs() + usual)
    return bool((near | (actual == expected) | (actual.isnan() & expected.isnan())).all())


def _block(run: Run, calls: int, device: torch.device) -> float:
    _synchronize(device)
    started = time.perf_counter()
    for _ in range(calls - 1):
        run()  # its result is not held while the next one is made
    _finish(run(), device)
    return time.perf_counter() - started


def _finish(result: Any, device: torch.device) -> None:
    """Waits until the card has computed it; JAX hands its work to the card in a thread of its own."""
    if device.type == "cuda" and isinstance(result, Mapping):
        for part in result.values():
            if hasattr(part, "block_until_ready"):
                part.block_until_ready()
    _synchronize(device)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@contextmanager
def _no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
