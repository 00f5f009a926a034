"""Episodes of ten steps with two actions: the data take each half of the time, the policy the better one more often."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import offline_losses as ol
from pictures import BLUE, ORANGE, SOFT, Axes

STEPS, BETTER = 10, 0.75
"""Of an episode, and how likely the policy takes the action that is worth 1."""


def log(episodes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, log-ratios and flags of so many episodes."""
    generator = torch.Generator().manual_seed(seed)
    action = torch.rand(episodes, STEPS, generator=generator) < 0.5
    log_ratio = torch.where(action, BETTER / 0.5, (1 - BETTER) / 0.5).log()
    return action.float(), log_ratio, torch.zeros(episodes, STEPS, dtype=torch.bool)


def estimates(axes: Axes, estimator: Callable[..., ol.ValueEstimate]) -> None:
    """Estimates from logs of growing size, and the truth."""
    for place, episodes in enumerate((10, 30, 100, 300)):
        values = [float(estimator(*log(episodes, seed)).value) for seed in range(40)]
        axes.plot([place] * len(values), values, "_", color=BLUE, alpha=0.5, markersize=9)
    axes.axhline(STEPS * BETTER, color=ORANGE, linestyle=":")
    axes.set(
        xlabel="episodes", xticks=range(4), xticklabels=("10", "30", "100", "300"), ylabel="value", ylim=(-0.5, 20)
    )


def importance_weights(axes: Axes) -> str:
    _, log_ratio, done = log(12, 1)
    weight = ol.importance_weights(log_ratio, done)
    axes.semilogy(range(1, STEPS + 1), weight.T, color=BLUE, alpha=0.6, linewidth=1)
    axes.axhline(1, color=SOFT, linewidth=0.7)
    axes.set(xlabel="step", ylabel="weight", xticks=(1, 5, 10))
    return "weights of twelve episodes drift apart with every step"


def importance_sampling_value(axes: Axes) -> str:
    estimates(axes, lambda *x: ol.importance_sampling_value(*x, discount=1.0))
    return "40 logs of each size: right on average, and wide (dotted: the truth)"


def weighted_importance_sampling_value(axes: Axes) -> str:
    estimates(axes, lambda *x: ol.weighted_importance_sampling_value(*x, discount=1.0))
    return "the same logs: never beyond the recorded returns, too low for few episodes"
