"""Where the noise carries an action."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import SOFT, Axes


def smoothed_action(axes: Axes) -> str:
    noise, high = torch.linspace(-4, 4, 201).unsqueeze(-1), torch.ones(1)
    for action in (-0.8, 0.0, 0.8):
        moved = ol.smoothed_action(torch.full((201, 1), action), noise, -high, high)
        axes.plot(noise, moved, label=f"{action}")
    for bound in (-1, 1):
        axes.axhline(bound, color=SOFT, linestyle=":")
    axes.set(xlabel="noise", ylabel="smoothed action")
    axes.legend(title="action", ncols=3, loc="lower center", bbox_to_anchor=(0.5, 0.95))
    return "the noise is clipped, and the action kept within its bounds (dotted)"
