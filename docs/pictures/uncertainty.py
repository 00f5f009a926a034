"""Members that agree where the data would be, and drift apart beside them."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import SOFT, Axes
from pictures.ensemble import ACTION, CRITICS


def ensemble_lower_bound(axes: Axes) -> str:
    axes.plot(ACTION, CRITICS.T, color=SOFT, linewidth=0.7)
    for penalty_weight in (0.0, 1.0, 2.0):
        bound = ol.ensemble_lower_bound(CRITICS, penalty_weight=penalty_weight)
        axes.plot(ACTION, bound, label=f"{penalty_weight:g}")
    axes.set(xlabel="action", ylabel="q", xticks=(-1, 0, 1), ylim=(-2.2, 3.9))
    axes.legend(title="penalty_weight", ncols=3, loc="upper center")
    return "far below the mean where the critics (thin) disagree"


def diversity_penalty(axes: Axes) -> str:
    angle = torch.linspace(0, torch.pi, 101)
    first = torch.stack([torch.ones(101), torch.zeros(101)], -1)
    second = torch.stack([angle.cos(), angle.sin()], -1)
    axes.plot(angle.rad2deg(), ol.diversity_penalty(torch.stack([first, second]), reduction="none"))
    axes.axhline(0, color=SOFT, linewidth=0.7)
    axes.set(xlabel="degrees between two slopes", ylabel="penalty", xticks=(0, 90, 180), xticklabels=("0", "90", "180"))
    return "slopes that point the same way are penalized"


def uncertainty_penalized_reward(axes: Axes) -> str:
    distance = torch.linspace(0, 3, 61)
    spread = torch.linspace(-1, 1, 5).view(-1, 1, 1)
    mean, std = spread * distance[:, None] ** 2 / 3, (0.3 + 0.1 * spread + 0.3 * distance[:, None]).expand(5, 61, 1)
    for uncertainty, output in (("max_aleatoric", std), ("max_pairwise_difference", mean), ("ensemble_std", mean)):
        reward = ol.uncertainty_penalized_reward(torch.ones(61), output, uncertainty=uncertainty)
        axes.plot(distance, reward, label=uncertainty.replace("_", " "))
    axes.set(xlabel="distance from the data", ylabel="reward", ylim=(-6, 4))
    axes.legend(loc="upper right")
    return "three meanings of uncertainty, on three scales"
