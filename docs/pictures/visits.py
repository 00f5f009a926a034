"""What one step adds to each objective, by its error."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import Axes

E = torch.linspace(-3, 3, 241)
ZERO, END = torch.zeros_like(E), torch.ones_like(E, dtype=torch.bool)


def dual_dice_loss(axes: Axes) -> str:
    for p in (1.2, 1.5, 2.0):
        loss = ol.dual_dice_loss(E, ZERO, ZERO, END, exponent=p, reduction="none")
        axes.plot(E, loss, label=f"{p}")
    axes.set(xlabel="δ = ν(s, a) − γ ν(s′, a′)", ylabel="loss", ylim=(-0.1, 4))
    axes.legend(title="exponent", ncols=3, loc="upper center")
    return "the same on both sides: it is its slope that becomes a ratio"


def algae_dice_loss(axes: Axes) -> str:
    for t in (0.5, 1.0, 3.0):
        loss = ol.algae_dice_loss(ZERO, ZERO, ZERO, E, END, temperature=t, reduction="none")
        axes.plot(E, loss, label=f"{t}")
    axes.set(xlabel="e = r + γ ν(s′, a′) − ν(s, a)", ylabel="loss", ylim=(-0.1, 4))
    axes.legend(title="temperature", ncols=3, loc="upper center")
    return "the cheaper the divergence, the dearer an error"
