"""Three parts of a dataset of unequal size, and a table of ten episodes."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import BLUE, ORANGE, SOFT, Axes
from pictures.filters import RETURNS

PARTS = [
    centre + width * torch.randn(size, 1, generator=torch.Generator().manual_seed(size))
    for centre, width, size in ((-2.0, 0.5, 10), (1.0, 1.0, 40), (4.0, 0.7, 25))
]


def observation_moments(axes: Axes) -> str:
    _parts(axes)
    for place, part in enumerate(PARTS):
        samples, mean, _ = ol.observation_moments(part)
        axes.annotate(
            f"{samples:.0f}", (float(mean), place), (0, 8), textcoords="offset points", ha="center", color=BLUE
        )
    return "each part by itself: how many, and around where"


def merged_moments(axes: Axes) -> str:
    _parts(axes)
    whole = ol.merged_moments(*map(torch.stack, zip(*map(ol.observation_moments, PARTS), strict=True)))
    mean, std = ol.moment_statistics(*whole)
    axes.errorbar([float(mean)], [3], xerr=[float(std)], fmt="o", color=ORANGE, markersize=3, capsize=3)
    axes.set(yticks=(0, 1, 2, 3), yticklabels=("part 1", "part 2", "part 3", "whole"), ylim=(-0.6, 3.6))
    return "mean ± deviation of the whole, from three numbers of each part"


def moment_statistics(axes: Axes) -> str:
    _parts(axes)
    for place, part in enumerate(PARTS):
        mean, std = ol.moment_statistics(*ol.observation_moments(part))
        axes.errorbar([float(mean)], [place], xerr=[float(std)], fmt="o", color=ORANGE, markersize=3, capsize=3)
    return "mean ± deviation that the moments stand for"


def return_threshold(axes: Axes) -> str:
    value, _ = ol.return_threshold(RETURNS, torch.ones(10, dtype=torch.int64), fraction=0.3)
    axes.bar(range(10), RETURNS, color=[BLUE if keep else SOFT for keep in value <= RETURNS])
    axes.axhline(float(value), color=ORANGE, label="value")
    axes.axvline(4.5, color=SOFT, linestyle="--")
    axes.set(xlabel="episodes of two processes", ylabel="return", xticks=(0, 3, 6, 9), ylim=(0, 12.5))
    axes.legend(loc="upper right")
    return "fraction=0.3 of all ten, whoever holds them"


def _parts(axes: Axes) -> None:
    for place, part in enumerate(PARTS):
        axes.plot(part[:, 0], torch.full((len(part),), float(place)), "|", color=SOFT, markersize=9)
    axes.set(yticks=(0, 1, 2), yticklabels=("part 1", "part 2", "part 3"), ylim=(-0.6, 2.6))
