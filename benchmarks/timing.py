"""Samples of all variants of one piece of work in turn, so that a slow minute of the machine slows each of them."""

from __future__ import annotations

import gc
import random
import signal
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.variants import Run, Variant

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
