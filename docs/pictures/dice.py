"""What one step adds to each objective, by its error."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import Axes

E = torch.linspace(-3, 3, 241)
ZERO, END = torch.zeros_like(E), torch.ones_like(E, dtype=torch.bool)


def opti_dice_loss(axes: Axes) -> str:
    for kind in ("kl", "chi_square", "soft_chi_square"):
        axes.plot(E, ol.opti_dice_loss(ZERO, ZERO, ZERO, E, END, divergence=kind, reduction="none"), label=kind)
    axes.set(xlabel="e = r + γ V(s′) − V(s)", ylabel="loss", ylim=(-1.2, 4))
    axes.legend(loc="upper left")
    return "the conjugates: steps far worse than the value do not count"


def smodice_loss(axes: Axes) -> str:
    zero = torch.zeros(2)
    for t in (0.2, 1.0, 5.0):
        errors = torch.stack([E, ZERO], -1)
        loss = [ol.smodice_loss(zero, zero, zero, pair, END[:2], temperature=t) for pair in errors]
        axes.plot(E, torch.stack(loss), label=f"{t}")
    axes.set(xlabel="one of two errors, the other being 0", ylabel="loss")
    axes.legend(title="temperature", loc="upper left")
    return "between the mean of both, where it is dear to leave the data, and the larger of them"
