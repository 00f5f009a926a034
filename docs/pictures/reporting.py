"""Two algorithms on four tasks with five runs each, one of which is lucky on one task."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import BLUE, ORANGE, SOFT, Axes

_NOISE = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(4))
SCORE = torch.tensor([[0.4], [0.6], [0.7], [0.9]]) + 0.1 * _NOISE[0]
SCORE[3, 0] = 2.5
OTHER = torch.tensor([[0.3], [0.6], [0.5], [0.9]]) + 0.1 * _NOISE[1]


def normalized_score(axes: Axes) -> str:
    returns = torch.tensor([-300.0, 1200.0, 3500.0, 4400.0])
    axes.plot(returns, ol.normalized_score(returns, random_score=-300.0, reference_score=3500.0), "o-")
    axes.set(xlabel="return", ylabel="normalized score", xticks=(-300, 3500), yticks=(0, 1))
    axes.set_xticklabels(("random", "reference"))
    return "0 is random, 1 the reference, and more is possible"


def interquartile_mean(axes: Axes) -> str:
    ranked = SCORE.flatten().sort().values
    middle = (torch.arange(20) >= 5) & (torch.arange(20) < 15)
    axes.bar(range(20), ranked, color=[BLUE if kept else SOFT for kept in middle])
    axes.axhline(float(ol.interquartile_mean(SCORE)), color=ORANGE, linestyle=":")
    axes.set(xlabel="scores of all runs and tasks, ranked", xticks=(), ylabel="score")
    return "the mean (dotted) of the middle half (blue)"


def probability_of_improvement(axes: Axes) -> str:
    axes.bar(range(4), ol.probability_of_improvement(SCORE, OTHER), color=BLUE)
    axes.axhline(0.5, color=SOFT, linestyle=":")
    axes.set(xlabel="task", xticks=range(4), xticklabels=("1", "2", "3", "4"), ylabel="probability", ylim=(0, 1))
    return "how often a run of the one beats a run of the other"


def stratified_bootstrap_interval(axes: Axes) -> str:
    for place, metric in enumerate((torch.mean, ol.interquartile_mean)):
        generator = torch.Generator().manual_seed(0)
        low, high = ol.stratified_bootstrap_interval(metric, SCORE, generator=generator, resamples=300)
        axes.plot([float(low), float(high)], [place] * 2, color=BLUE, linewidth=5, alpha=0.5)
        axes.plot(float(metric(SCORE)), place, "o", color=ORANGE)
    axes.set(yticks=(0, 1), yticklabels=("mean", "IQM"), ylim=(-0.6, 1.6), xlabel="score")
    return "one lucky run widens the mean's interval"
