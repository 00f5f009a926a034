"""A small dataset in time order: ten episodes of rewards, or a few observations."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import BLUE, ORANGE, SOFT, Axes

RETURNS = torch.tensor([4.0, 1.0, 7.0, 3.0, 9.0, 2.0, 5.0, 8.0, 1.5, 6.0])
"""Of ten episodes of one step each."""
OBSERVATION = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([3, 1, 0]) + torch.tensor(
    [2.0, -3.0, 4.0]
)
"""Two dimensions that vary, and one that is always 4."""


def episode_return(axes: Axes) -> str:
    reward = torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0, 0.0, 1.0, 0.0, 3.0, 2.0, 1.0])
    t, done = torch.arange(11), torch.zeros(11, dtype=torch.bool)
    done[[3, 6, 10]] = True
    axes.bar(t, reward, color=SOFT, label="reward")
    axes.step(t, ol.episode_return(reward, done), where="mid", label="episode_return")
    axes.set(xlabel="t", ylim=(0, 9.5), xticks=(0, 4, 7))
    axes.legend(loc="upper left")
    return "the sum of the whole episode, on each of its steps"


def return_filter(axes: Axes) -> str:
    kept = ol.return_filter(RETURNS, torch.ones(10, dtype=torch.bool), fraction=0.3)
    axes.bar(range(10), RETURNS, color=[BLUE if keep else SOFT for keep in kept])
    axes.set(xlabel="episode", ylabel="return", xticks=(0, 3, 6, 9))
    return "fraction=0.3 keeps the best three of ten"


def reward_scale(axes: Axes) -> str:
    returns = 400 * RETURNS
    scaled = returns * ol.reward_scale(returns, torch.ones(10, dtype=torch.bool), horizon=1000.0)
    for place, values, color in ((1, returns, SOFT), (0, scaled, BLUE)):
        axes.plot(values, torch.full_like(values, place), "|", color=color, markersize=9)
        axes.annotate(
            f"{values.max() - values.min():.0f}",
            (values.mean(), place),
            (0, 8),
            textcoords="offset points",
            ha="center",
            color=color,
        )
    axes.set(xlabel="return of an episode", yticks=(0, 1), yticklabels=("scaled", "as recorded"), ylim=(-0.5, 1.7))
    axes.set(xlim=(0, 3900), xticks=(0, 1000, 2000, 3000))
    return "the range of returns becomes horizon, and 0 stays 0"


def observation_statistics(axes: Axes) -> str:
    _dimensions(axes, OBSERVATION)
    mean, std = ol.observation_statistics(OBSERVATION)
    axes.errorbar([0.25, 1.25, 2.25], mean, std, fmt="o", color=ORANGE, markersize=3, capsize=3)
    return "mean ± deviation of each dimension"


def normalize_observation(axes: Axes) -> str:
    _dimensions(axes, ol.normalize_observation(OBSERVATION, *ol.observation_statistics(OBSERVATION)))
    return "the same data at mean 0 and deviation 1; a constant becomes 0"


def _dimensions(axes: Axes, observation: torch.Tensor) -> None:
    axes.plot(range(3), observation.T, "_", color=BLUE, alpha=0.6)
    axes.axhline(0, color=SOFT, linestyle=":", linewidth=1)
    axes.set(xlabel="dimension", ylabel="observation", xticks=range(3), xlim=(-0.5, 2.5), ylim=(-9, 9))
