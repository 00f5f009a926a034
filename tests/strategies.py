"""Hypothesis strategies for the tests: float64 tensors of bounded size, masks, episodes, candidates.

Two profiles: "fast" (the default: few examples, always the same ones) and "thorough" (many, new ones on each run). The
environment variable HYPOTHESIS_PROFILE chooses; importing this module registers and loads it.
"""

from __future__ import annotations

import math
import os
from typing import NamedTuple

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

_SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.data_too_large]

settings.register_profile("fast", max_examples=20, deadline=None, derandomize=True, suppress_health_check=_SLOW_IS_FINE)
settings.register_profile("thorough", max_examples=500, deadline=None, suppress_health_check=_SLOW_IS_FINE)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

Shape = tuple[int, ...]


def reals(low: float = -10.0, high: float = 10.0) -> SearchStrategy[float]:
    """Finite numbers in [low, high]; none so small that its square is lost."""
    grid = 2.0**-20
    return st.floats(low, high).map(lambda x: min(max(round(x / grid) * grid, low), high))


def batches(min_dims: int = 1, max_dims: int = 2, min_side: int = 1, max_side: int = 4) -> SearchStrategy[Shape]:
    """Batch shapes."""
    sides = st.integers(min_side, max_side)
    return st.lists(sides, min_size=min_dims, max_size=max_dims).map(tuple)


def tensors(shape: Shape, low: float = -10.0, high: float = 10.0) -> SearchStrategy[Tensor]:
    """A float64 tensor; equal values are common."""
    return arrays(np.float64, shape, elements=reals(low, high)).map(torch.from_numpy)


@st.composite
def distinct(draw: DrawFn, shape: Shape, low: float = -10.0, high: float = 10.0) -> Tensor:
    """A float64 tensor without ties: a shuffled grid, each point moved by less than half a step."""
    size = int(np.prod(shape))
    step = (high - low) / max(1, size)
    order = draw(st.permutations(range(size)))
    moved = draw(arrays(np.float64, (size,), elements=reals(0.1, 0.4)))
    return torch.from_numpy((low + step * (np.array(order, float) + moved)).reshape(shape))


@st.composite
def residuals(draw: DrawFn, shape: Shape, gap: float = 0.01, high: float = 10.0) -> Tensor:
    """Numbers at least `gap` away from zero, where the losses have their kink."""
    sign = draw(arrays(np.bool_, shape))
    size = draw(arrays(np.float64, shape, elements=reals(gap, high)))
    return torch.from_numpy(np.where(sign, size, -size))


def masks(shape: Shape) -> SearchStrategy[Tensor]:
    """Any bool tensor, all False included."""
    return arrays(np.bool_, shape).map(torch.from_numpy)


@st.composite
def candidate_masks(draw: DrawFn, shape: Shape) -> Tensor:
    """A bool tensor [*batch, N] with at least one candidate in each row."""
    mask = draw(arrays(np.bool_, shape))
    sure = draw(arrays(np.int64, shape[:-1], elements=st.integers(0, shape[-1] - 1)))
    np.put_along_axis(mask, sure[..., None], True, axis=-1)
    return torch.from_numpy(mask)


@st.composite
def probabilities(draw: DrawFn, shape: Shape, zeros: bool = True) -> Tensor:
    """Distributions over the last axis, some with empty entries."""
    parts = draw(arrays(np.float64, shape, elements=reals(0.0 if zeros else 0.05, 1.0)))
    parts[..., 0] += 0.05
    return torch.from_numpy(parts / parts.sum(axis=-1, keepdims=True))


temperatures = reals(0.1, 5.0)
discounts = st.one_of(st.sampled_from([0.0, 0.5, 0.99, 1.0]), reals(0.0, 1.0))
levels = reals(0.02, 0.98)
fractions = st.one_of(st.sampled_from([0.1, 0.25, 0.5, 1.0]), reals(0.01, 1.0))


class Episodes(NamedTuple):
    """Whole episodes in dataset order: one row of `lengths` episodes, time last."""

    reward: Tensor
    done: Tensor
    terminated: Tensor
    lengths: tuple[int, ...]


@st.composite
def lengths(draw: DrawFn, max_episodes: int = 6, max_length: int = 7) -> tuple[int, ...]:
    """Steps of each episode, one-step episodes included."""
    one = st.integers(1, max_length)
    return tuple(draw(st.lists(one, min_size=1, max_size=max_episodes)))


@st.composite
def episodes(draw: DrawFn, max_episodes: int = 6, max_length: int = 7, last_done: bool = True) -> Episodes:
    """Episodes of random length on one time axis; each ends terminated or truncated."""
    steps = draw(lengths(max_episodes, max_length))
    total = sum(steps)
    done = torch.zeros(total, dtype=torch.bool)
    done[torch.tensor(steps).cumsum(0) - 1] = True
    if not last_done:
        done[-1] = draw(st.booleans())
    return Episodes(
        reward=draw(tensors((total,), -5.0, 5.0)),
        done=done,
        terminated=done & draw(masks((total,))),
        lengths=steps,
    )


class Trajectories(NamedTuple):
    """A batch of time axes [*batch, T] with flags at any step."""

    reward: Tensor
    value: Tensor
    next_value: Tensor
    terminated: Tensor
    done: Tensor


@st.composite
def trajectories(draw: DrawFn, max_steps: int = 12, max_dims: int = 2) -> Trajectories:
    """Rewards, values and flags with `value[t + 1] == next_value[t]` wherever no step is cut."""
    shape = (*draw(batches(0, max_dims, 1, 3)), draw(st.integers(1, max_steps)))
    done = draw(masks(shape)) & draw(masks(shape))
    value = draw(tensors(shape, -5.0, 5.0))
    next_value = draw(tensors(shape, -5.0, 5.0))
    next_value[..., :-1] = torch.where(done[..., :-1], next_value[..., :-1], value[..., 1:])
    return Trajectories(
        reward=draw(tensors(shape, -5.0, 5.0)),
        value=value,
        next_value=next_value,
        terminated=done & draw(masks(shape)),
        done=done,
    )


@st.composite
def log_ratios(draw: st.DrawFn, shape: tuple[int, ...]) -> Tensor:
    """Logarithms of ratios, those of zero and infinity among them."""
    finite = draw(tensors(shape, -3.0, 3.0))
    kind = draw(tensors(shape, 0.0, 1.0))
    return torch.where(kind < 0.15, -math.inf, torch.where(kind > 0.85, math.inf, finite))


def end_of(x: Trajectories) -> Tensor:
    """Where a sequence ends, the last step of the axis included."""
    end = x.done.clone()
    end[..., -1] = True
    return end
