"""Intervals around a mean of coin throws, or of returns, as the sample grows."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import BLUE, ORANGE, SOFT, Axes

COUNT = torch.tensor([10, 20, 40, 80, 160, 320, 640])


def _draw(axes: Axes, interval: ol.Interval) -> None:
    axes.fill_between(COUNT, *interval, color=BLUE, alpha=0.3)
    axes.axhline(0.5, color=ORANGE, linestyle=":")
    axes.set(xscale="log", xlabel="episodes", ylim=(-0.6, 1.6), yticks=(0, 0.5, 1))
    axes.set_xticks((10, 100), labels=("10", "100"))


def normal_interval(axes: Axes) -> str:
    mean = torch.full((7,), 0.5)
    _draw(axes, ol.normal_interval(mean, 0.5 / (COUNT - 1).sqrt()))
    return "95 of 100 hold the truth, if there are many episodes"


def empirical_bernstein_interval(axes: Axes) -> str:
    low, high = torch.stack(
        [
            torch.stack(
                ol.empirical_bernstein_interval(
                    torch.tensor(0.5), 0.5 / (count - 1.0).sqrt(), count=float(count), spread=1.0
                )
            )
            for count in COUNT
        ]
    ).T
    _draw(axes, ol.Interval(low, high))
    return "wider, for returns in [0, 1]; holds for any number of episodes"


def bootstrap_interval(axes: Axes) -> str:
    generator = torch.Generator().manual_seed(3)
    columns = {"reward": torch.rand(60, generator=generator), "log_ratio": 0.8 * torch.randn(60, generator=generator)}
    columns["done"] = torch.arange(60) % 2 == 1
    found = []

    def estimator(**columns: torch.Tensor) -> torch.Tensor:
        found.append(ol.weighted_importance_sampling_value(**columns, discount=1.0).value)
        return found[-1]

    interval = ol.bootstrap_interval(estimator, columns, generator=generator, resamples=300)
    axes.hist(torch.stack(found).tolist(), bins=25, color=SOFT)
    for end in interval:
        axes.axvline(float(end), color=BLUE)
    axes.set(xlabel="estimate from resampled episodes", yticks=())
    return "95 of 100 resamples lie between the lines"
