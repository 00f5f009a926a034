"""A critic that runs away, and bounds that hold back more and more."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import SOFT, Axes

SAMPLES = torch.linspace(-2, 2, 201)


def overestimation_gap(axes: Axes) -> str:
    steps = range(0, 101, 5)
    for name, rate in (("with pessimism", 0.0), ("without", 0.04)):
        gaps = [ol.overestimation_gap(SAMPLES * 0.3 + rate * step, torch.zeros(201)).mean for step in steps]
        axes.plot(steps, gaps, label=name)
    axes.axhline(0, color=SOFT, linewidth=0.7)
    axes.set(xlabel="thousand updates", ylabel="gap")
    axes.legend()
    return "a critic that promises more and more, and one that does not (made up)"


def q_gap(axes: Axes) -> str:
    shift = torch.linspace(-1, 3, 41)
    for spread in (0.0, 0.5, 1.0):
        gaps = [ol.q_gap(SAMPLES * spread + s, torch.zeros(201)) for s in shift]
        mean, std = (torch.stack(x) for x in zip(*gaps, strict=True))
        axes.fill_between(shift, mean - std, mean + std, alpha=0.25)
    axes.plot(shift, shift)
    axes.set(xlabel="what is added to the policy's actions", ylabel="gap")
    return "the mean, and the deviation if actions differ by more and more"


def clip_fraction(axes: Axes) -> str:
    bounds = torch.logspace(-1, 2, 61)
    for t in (0.3, 1.0, 3.0):
        weights = ol.awr_weights(SAMPLES, temperature=t, max_weight=1e6)
        axes.semilogx(bounds, [ol.clip_fraction(weights, high=bound) for bound in bounds], label=f"{t}")
    axes.set(xlabel="max_weight", ylabel="share")
    axes.legend(title="temperature")
    return "the lower the temperature, the more weights lie at the bound"


def td_error_scale(axes: Axes) -> str:
    share = torch.linspace(0, 2, 81)
    axes.plot(share, [ol.td_error_scale(s * SAMPLES, SAMPLES) for s in share])
    axes.axhline(1, color=SOFT, linestyle=":")
    axes.set(xlabel="prediction over target", ylabel="scale", ylim=(-0.05, 1.2))
    return "zero at the targets, one for a constant (dotted)"


def support_coverage(axes: Axes) -> str:
    behavior = torch.tensor([[0.5, 0.3, 0.15, 0.05]])
    thresholds = torch.linspace(0, 0.99, 100)
    for name, policy in (("of the data", behavior), ("uniform", torch.full((1, 4), 0.25))):
        cover = [ol.support_coverage(policy, ol.support_mask(behavior.log(), threshold=t)) for t in thresholds]
        axes.plot(thresholds, cover, label=name)
    axes.set(xlabel="threshold of support_mask", ylabel="coverage", ylim=(0, 1.05))
    axes.legend(title="policy")
    return "a policy that likes what the data seldom do is covered less"
