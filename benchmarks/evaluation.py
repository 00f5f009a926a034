"""Processor time to judge a policy on a large log: `python -m benchmarks.evaluation`, a minute on one core.

Ten million steps in 100 000 episodes of unequal length, on one thread; estimators, `discounted_return`, a NumPy loop
over episodes and the exponentials of as many doubles run in turn. Medians of the times, and of their ratios in the same
turn, are kept, for `python -m benchmarks --report`.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import offline_losses
from benchmarks.projection import machine
from offline_losses._core.pieces import BLOCK

RESULTS = Path(__file__).parent / "results" / "evaluation"
STEPS, EPISODES, ROUNDS, DISCOUNT = 10_000_000, 100_000, 7, 0.99
DRAWS = 20
LOOP, EXPONENTIALS = "NumPy loop, per decision", "exponentials alone"
WHOLE = ("importance_sampling_value", "weighted_importance_sampling_value")
BY_DECISION = ("per_decision_value", "weighted_per_decision_value")
WITH_A_MODEL = ("doubly_robust_value", "weighted_doubly_robust_value")


def main() -> None:
    """Prints and keeps seconds, and how many times as long as `discounted_return` each takes."""
    torch.set_num_threads(1)
    work = _work()
    spent: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS):
        for name, run in work.items():
            start = time.process_time()
            run()
            spent[name].append(time.process_time() - start)
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / f"{machine('cpu').lower().replace(' ', '-')}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["machine", "torch", "name", "seconds", "ratio"])
        for name, seconds in spent.items():
            ratio = median(x / unit for x, unit in zip(seconds, spent["discounted_return"], strict=True))
            row = [name, f"{median(seconds):.3f}", f"{ratio:.2f}"]
            print("  ".join(row))
            writer.writerow([machine("cpu"), torch.__version__, *row])


def _work() -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(0)
    reward, log_ratio, value = (torch.randn(STEPS, generator=generator) for _ in range(3))
    log_ratio *= 0.1
    done = torch.zeros(STEPS, dtype=torch.bool)
    done[torch.randperm(STEPS, generator=generator)[:EPISODES]] = True
    done[-1] = True
    plain: tuple[Tensor, ...] = (reward, log_ratio, done)
    model: tuple[Tensor, ...] = (reward, value, value, value, log_ratio, done, done)
    arguments = dict.fromkeys(WHOLE + BY_DECISION, plain) | dict.fromkeys(WITH_A_MODEL, model)
    work: dict[str, Callable[[], object]] = {
        "discounted_return": lambda: offline_losses.discounted_return(reward, done, discount=DISCOUNT)
    }
    for name, tensors in arguments.items():
        function = getattr(offline_losses, name)
        work[name] = lambda function=function, tensors=tensors: function(*tensors, discount=DISCOUNT)  # type: ignore[misc]
    bounds = [0, *(done.nonzero().flatten() + 1).tolist()]
    work[f"magic_value, {DRAWS} draws"] = lambda: offline_losses.magic_value(
        *model, discount=DISCOUNT, generator=torch.Generator().manual_seed(0), resamples=DRAWS
    )
    work[LOOP] = lambda: _loop(reward.numpy(), log_ratio.numpy(), bounds)
    exponents = log_ratio[:BLOCK].double()
    work[EXPONENTIALS] = lambda: [exponents.exp() for _ in range(STEPS // BLOCK)]
    return work


def _loop(reward: NDArray[np.float32], log_ratio: NDArray[np.float32], bounds: list[int]) -> float:
    """The per-decision value, each episode by NumPy's own sums."""
    power = DISCOUNT ** np.arange(max(stop - start for start, stop in pairwise(bounds)))
    found = [
        np.dot(power[: stop - start], np.exp(np.cumsum(log_ratio[start:stop], dtype=np.float64)) * reward[start:stop])
        for start, stop in pairwise(bounds)
    ]
    return float(np.mean(found))


if __name__ == "__main__":
    main()
