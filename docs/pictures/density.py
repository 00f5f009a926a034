"""Densities of a single action dimension."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import Axes

DEVIATIONS = (0.4, 0.8, 2.0)


def gaussian_log_prob(axes: Axes) -> str:
    action = torch.linspace(-2, 2, 201).unsqueeze(-1)
    for std in DEVIATIONS:
        log_prob = ol.gaussian_log_prob(torch.zeros_like(action), torch.tensor([std]).log(), action)
        axes.plot(action.squeeze(-1), log_prob, label=f"{std}")
    axes.set(xlabel="action", ylabel="log_prob", ylim=(-6, 2.5))
    axes.legend(title="exp(log_std)", ncols=3, loc="upper center")
    return "a parabola, steeper for a narrow policy"


def tanh_gaussian_log_prob(axes: Axes) -> str:
    action = torch.linspace(-0.995, 0.995, 400).unsqueeze(-1)
    for std in DEVIATIONS:
        log_prob = ol.tanh_gaussian_log_prob(torch.zeros_like(action), torch.tensor([std]).log(), action=action)
        axes.plot(action.squeeze(-1), log_prob.exp(), label=f"{std}")
    axes.set(xlabel="action", ylabel="exp(log_prob)", ylim=(0, 2.6), xticks=(-1, 0, 1))
    axes.legend(title="exp(log_std)", ncols=3, loc="upper center")
    return "a wide policy piles up at the ends"
