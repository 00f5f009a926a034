"""One-step targets of a single transition with reward 1."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import SOFT, Axes

GRID = torch.linspace(-4, 4, 81)
REWARD, GOES_ON = torch.ones(81), torch.zeros(81, dtype=torch.bool)
Q = torch.tensor([0.0, 4.0]).expand(81, -1)


def bellman_target(axes: Axes) -> str:
    for terminated in (GOES_ON, ~GOES_ON):
        axes.plot(GRID, ol.bellman_target(REWARD, GRID, terminated, discount=0.9), label=f"{bool(terminated[0])}")
    axes.set(xlabel="next_value", ylabel="target")
    axes.legend(title="terminated")
    return "slope γ; the reward alone where terminated"


def soft_bellman_target(axes: Axes) -> str:
    value = torch.full_like(GRID, 2.0)
    for temperature in (0.0, 0.5, 1.0):
        target = ol.soft_bellman_target(REWARD, value, GRID, GOES_ON, temperature=temperature, discount=0.9)
        axes.plot(GRID, target, label=f"{temperature}")
    axes.set(xlabel="next_log_prob", ylabel="target", ylim=(-1.5, 10), yticks=(0, 4, 8))
    axes.legend(title="temperature", ncols=3, loc="upper center")
    return "an unlikely next action is worth more"


def expected_target(axes: Axes) -> str:
    p = torch.linspace(0, 1, 81)
    drawn = torch.rand(81, generator=torch.Generator().manual_seed(0)) < p
    sampled = ol.bellman_target(REWARD, torch.where(drawn, Q[:, 1], Q[:, 0]), GOES_ON, discount=0.9)
    axes.plot(p, ol.expected_target(REWARD, Q, torch.stack([1 - p, p], -1), GOES_ON, discount=0.9))
    axes.plot(p, sampled, ".", color=SOFT, markersize=3)
    axes.set(xlabel="next_probability of the better", ylabel="target", ylim=(0.6, 5))
    return "the mean over sampled actions (dots)"


def double_q_target(axes: Axes) -> str:
    sizes, generator = (1, 2, 4, 8, 16, 32, 64), torch.Generator().manual_seed(0)
    zero, goes_on = torch.zeros(1000), torch.zeros(1000, dtype=torch.bool)
    means: dict[str, list[float]] = {"one network": [], "two networks": []}
    for size in sizes:
        online, target = torch.randn(2, 1000, size, generator=generator)
        for label, chooser in zip(means, (target, online), strict=True):
            means[label].append(float(ol.double_q_target(zero, chooser, target, goes_on, discount=1.0).mean()))
    for label, mean in means.items():
        axes.plot(sizes, mean, marker=".", label=label)
    axes.set(xscale="log", xlabel="actions", ylabel="mean target", xticks=(1, 8, 64), xticklabels=(1, 8, 64))
    axes.minorticks_off()
    axes.legend()
    return "one noisy network over-estimates the true 0, two do not"


def candidate_max_value(axes: Axes) -> str:
    sizes, generator = (1, 2, 4, 8, 16, 32, 64), torch.Generator().manual_seed(0)
    for order in ("max_then_min", "min_then_max"):
        means = [
            float(ol.candidate_max_value(torch.randn(2, 1000, size, generator=generator), order=order).mean())
            for size in sizes
        ]
        axes.plot(sizes, means, marker=".", label=order.replace("_", " "))
    axes.set(xscale="log", xlabel="candidates", ylabel="mean value", xticks=(1, 8, 64), xticklabels=(1, 8, 64))
    axes.minorticks_off()
    axes.legend()
    return "of two noisy critics, the truth being 0"
