"""A whole dataset of ten million steps, against the loop over episodes that most code has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import offline_losses
from benchmarks import peers
from benchmarks.floors import clone_floor
from benchmarks.variants import MODES, Maker, Variant, Variants, Workload, maker, shape_text
from offline_losses import fused

STEPS = 10_000_000
LOOPED_STEPS, TORCHRL_STEPS = 100_000, 1_000_000  # of those that need minutes for all; their time is a straight line
EPISODE = (500, 1500)
DISCOUNT = 0.99
FRACTION = 0.1


def workloads(with_packages: bool = False) -> Iterator[Workload]:
    knobs = {"discounted_return": {"discount": DISCOUNT}, "return_filter": {"fraction": FRACTION}}
    loops = {"discounted_return": loop_returns, "return_filter": loop_filter}
    for name, arguments in knobs.items():

        def variants(device: torch.device, name: str = name, knob: dict[str, float] = arguments) -> Variants:
            reward, done = episodes(STEPS, device)
            taken = {"reward": reward, "done": done, **knob}
            made = {"eager": maker(getattr(offline_losses, name), taken, MODES[0])}
            made["fused"] = maker(getattr(fused, name), taken, MODES[0])
            made["numpy loop"] = _of_part(loops[name], LOOPED_STEPS, reward.cpu().numpy(), done.cpu().numpy())
            if with_packages and name == "discounted_return":
                made["torchrl"] = _of_part(partial(peers.reward_to_go, discount=DISCOUNT), TORCHRL_STEPS, reward, done)
            return made | {"floor": lambda: clone_floor(reward)}

        yield Workload("returns", name, shape_text((STEPS,)), MODES[0], STEPS, variants)


def episodes(steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rewards, and True at the end of each episode, of about a thousand steps."""
    generator = torch.Generator().manual_seed(0)
    ends = torch.randint(*EPISODE, (steps // EPISODE[0],), generator=generator).cumsum(0) - 1
    done = torch.zeros(steps, dtype=torch.bool)
    done[ends[ends < steps]] = True
    done[-1] = True
    return torch.randn(steps, generator=generator).to(device), done.to(device)


def loop_returns(reward: NDArray[np.float32], done: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Backwards through each episode, step by step."""
    result = np.zeros_like(reward)
    for start, end in _bounds(done):
        following = 0.0
        for step in reversed(range(start, end)):
            following = reward[step] + DISCOUNT * following
            result[step] = following
    return result


def loop_filter(reward: NDArray[np.float32], done: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The episodes with the highest sum of rewards, each added up step by step."""
    bounds, scores = _bounds(done), []
    for start, end in bounds:
        score = 0.0
        for step in range(start, end):
            score += float(reward[step])
        scores.append(score)
    kept = np.zeros_like(done)
    for episode in np.argsort(scores)[::-1][: max(1, round(FRACTION * len(bounds)))]:
        kept[slice(*bounds[episode])] = True
    return kept


def _of_part(function: Callable[[Any, Any], Any], steps: int, reward: Any, done: Any) -> Maker:
    """On the first part of the same data, with its time scaled to the whole."""
    note = f"timed on {steps:,} steps, scaled to {len(reward):,}"
    run = partial(function, reward[:steps], done[:steps])
    return lambda: Variant(run, work=steps / len(reward), tolerance=None, note=note)


def _bounds(done: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First step and end of each episode; the last one ends with the data."""
    ends = [*(np.flatnonzero(done[:-1]) + 1).tolist(), len(done)]
    return list(pairwise([0, *ends]))
