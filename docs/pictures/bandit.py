"""Decisions among four actions of different worth, logged by a policy that prefers the worst."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import offline_losses as ol
from pictures import BLUE, ORANGE, Axes

WORTH = torch.tensor([0.1, 0.2, 0.3, 0.5])
LOGGED = torch.tensor([0.55, 0.25, 0.15, 0.05])
POLICY = torch.tensor([0.05, 0.15, 0.3, 0.5])


def _estimates(axes: Axes, estimator: Callable[[Tensor, Tensor], ol.ValueEstimate]) -> None:
    for place, samples in enumerate((100, 300, 1000, 3000)):
        values = []
        for seed in range(40):
            generator = torch.Generator().manual_seed(seed)
            action = LOGGED.expand(samples, 4).multinomial(1, generator=generator).squeeze(-1)
            reward = (torch.rand(samples, generator=generator) < WORTH[action]).float()
            values.append(float(estimator(reward, action).value))
        axes.plot([place] * len(values), values, "_", color=BLUE, alpha=0.5, markersize=9)
    axes.axhline(float(POLICY @ WORTH), color=ORANGE, linestyle=":")
    axes.set(xticks=range(4), xticklabels=("100", "300", "1000", "3000"), ylim=(0, 0.8))
    axes.set(xlabel="samples", ylabel="value")


def ips_value(axes: Axes) -> str:
    _estimates(axes, lambda reward, action: ol.ips_value(reward, POLICY[action], LOGGED[action]))
    return "40 logs of each size: right on average (dotted: the truth)"


def self_normalized_ips_value(axes: Axes) -> str:
    _estimates(axes, lambda reward, action: ol.self_normalized_ips_value(reward, POLICY[action], LOGGED[action]))
    return "the same logs, weights against each other"


def bandit_doubly_robust_value(axes: Axes) -> str:
    model = torch.tensor([0.15, 0.2, 0.35, 0.4])
    value = POLICY @ model

    def estimator(reward: Tensor, action: Tensor) -> ol.ValueEstimate:
        return ol.bandit_doubly_robust_value(
            reward, model[action], value.expand_as(reward), POLICY[action], LOGGED[action]
        )

    _estimates(axes, estimator)
    return "the same logs, with a model that is roughly right"
