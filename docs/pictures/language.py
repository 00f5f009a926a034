"""Two answers, or one, and how much likelier the policy makes them than its reference."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import SOFT, Axes


def preference_loss(axes: Axes) -> str:
    margin = torch.linspace(-3, 6, 181)
    for kind, e in (("dpo", None), ("hinge", None), ("ipo", None), ("cdpo", 0.1), ("robust_dpo", 0.1)):
        loss = ol.preference_loss(
            margin, torch.zeros(181), kind=kind, kl_weight=1.0, label_smoothing=e, reduction="none"
        )
        axes.plot(margin, loss, label=kind.replace("_", " "))
    axes.set(xlabel="h = c − r", ylabel="loss", ylim=(-1.2, 6.5), yticks=(0, 2, 4))
    axes.legend(loc="upper right", ncols=2)
    return "IPO and cDPO stop at a margin, DPO goes on"


def reward_regression_loss(axes: Axes) -> str:
    quantile = torch.linspace(0, 1, 101)
    ratio = torch.linspace(-40, 6, 40_001)
    for kl_weight in (0.1, 0.3, 1.0):
        losses = ol.reward_regression_loss(
            ratio.expand(101, -1),
            quantile[:, None].expand(101, 40_001),
            kind="qrpo",
            kl_weight=kl_weight,
            reduction="none",
        )
        axes.plot(quantile, ratio[losses.argmin(-1)].exp(), label=f"{kl_weight:g}")
    axes.axhline(1, color=SOFT, linestyle=":")
    axes.set(xlabel="share of the reference's answers beaten", ylabel="π / π_ref", ylim=(0, 6))
    axes.legend(title="kl_weight", loc="upper left")
    return "QRPO's policy: a density over quantiles, of area one"


def path_consistency_loss(axes: Axes) -> str:
    steps, answers = 12, 4000
    generator = torch.Generator().manual_seed(0)
    ratio = torch.randn(answers, steps, generator=generator)
    end = torch.arange(steps).expand(answers, steps) == steps - 1
    value = torch.full((answers, steps), 0.5)
    reward = torch.where(end, 1.0, 0.0)
    for n in (1, 4, 12):
        x = ratio.clone().requires_grad_()
        ol.path_consistency_loss(value, value, reward, x, end, end, n=n, kl_weight=0.1, reduction="sum").backward()
        axes.plot(range(1, steps + 1), -x.grad.mean(0), marker=".", label=f"{n}")
    axes.set(xlabel="token, of 12", ylabel="pull up", xlim=(0.5, 12.5), xticks=(1, 4, 8, 12))
    axes.legend(title="n", loc="upper left")
    return "how far back the reward at the end reaches at once"
