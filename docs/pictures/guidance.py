"""Fields over one action: towards a condition, up a critic, and the price of a step."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import SOFT, Axes


def guided_field(axes: Axes) -> str:
    x = torch.linspace(-3, 3, 61)
    for w in (0.0, 1.0, 3.0):
        axes.plot(x, ol.guided_field(-x, 1 - x, guidance_scale=w), label=f"{w:g}")
    axes.axhline(0, color=SOFT, linewidth=0.7)
    axes.set(xlabel="action", ylabel="field", ylim=(-4, 8))
    axes.legend(title="guidance_scale", ncols=3, loc="upper center")
    return "where the field is zero moves from all actions past those that meet the condition"


def q_score_penalty(axes: Axes) -> str:
    said = torch.linspace(-2, 2, 161).unsqueeze(-1)
    slope, share = torch.ones_like(said), torch.full((161,), 0.5)
    imitation = ol.diffusion_loss(said, torch.zeros_like(said), said, share, reduction="none")
    for eta in (3.0, 1.0, 0.4):
        loss = eta * imitation + ol.q_score_penalty(said, slope, share, reduction="none")
        (line,) = axes.plot(said, loss - loss.min(), label=f"{eta:g}")
        axes.plot(said[loss.argmin()], 0, "o", color=line.get_color(), markersize=5, clip_on=False)
    axes.axvline(0, color=SOFT, linestyle=":", linewidth=0.8)
    axes.set(xlabel="noise that the policy says", ylabel="loss", ylim=(-0.1, 3))
    axes.legend(title="η", ncols=3, loc="upper center")
    return "with Q rising, less noise than the behavior's (dotted): what is left points uphill"


def path_kl_penalty(axes: Axes) -> str:
    variance = torch.linspace(1e-3, 0.15, 60)
    share = (1 - variance).cumprod(0)
    for difference in (1.0, 0.5):
        said = torch.full((60, 1), difference)
        cost = ol.path_kl_penalty(said, torch.zeros_like(said), share, variance, reduction="none")
        axes.plot(range(60), cost, label=f"{difference:g}")
    axes.set(xlabel="step of the schedule", ylabel="nats", xticks=(0, 59), xticklabels=("action", "noise"))
    axes.set_ylim(0, 0.6)
    axes.legend(title="difference of the noises", ncols=2, loc="upper right")
    return "a difference costs most where the last noise is taken out"
