"""Two policies, and how far the one is from the other."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import SOFT, Axes


def gaussian_kl_penalty(axes: Axes) -> str:
    mean, zero = torch.linspace(-2, 2, 101).unsqueeze(-1), torch.zeros(101, 1)
    for std in (0.5, 1.0, 2.0):
        log_std = torch.full((1,), std).log()
        axes.plot(mean, ol.gaussian_kl_penalty(mean, log_std, zero, zero, reduction="none"), label=f"{std}")
    axes.set(xlabel="mean less the reference's", ylabel="penalty", ylim=(-0.1, 3))
    axes.legend(title="deviation", ncols=3, loc="lower center", bbox_to_anchor=(0.5, 0.95))
    return "zero only where mean and deviation are the reference's"


def categorical_kl_penalty(axes: Axes) -> str:
    p = torch.linspace(0, 1, 201)
    policy = torch.stack([p, 1 - p], -1).log()
    for q in (0.5, 0.8, 0.95):
        reference = torch.tensor([q, 1 - q]).log().expand_as(policy)
        axes.plot(p, ol.categorical_kl_penalty(policy, reference, reduction="none"), label=f"{q}")
    axes.set(xlabel="probability of the first of two actions", ylabel="penalty", ylim=(-0.05, 2))
    axes.legend(title="the reference's", ncols=3, loc="lower center", bbox_to_anchor=(0.5, 0.95))
    return "finite, at most −log of the reference's probability"


def sampled_kl_penalty(axes: Axes) -> str:
    x = torch.linspace(-2, 2, 101)
    for kind in ("k1", "k2", "k3"):
        axes.plot(x, ol.sampled_kl_penalty(x, torch.zeros(101), estimator=kind, reduction="none"), label=kind)
    axes.axhline(0, color=SOFT, linewidth=0.7)
    axes.set(xlabel="log_prob − reference_log_prob", ylabel="penalty", ylim=(-2, 4))
    axes.legend(title="estimator", ncols=3, loc="lower center", bbox_to_anchor=(0.5, 0.95))
    return "k1 may be negative, k3 never is, and k2 does not know directions"
