"""Flags of two episodes."""

from __future__ import annotations

import torch

from pictures import BLUE, ORANGE, Axes


def check_ends(axes: Axes) -> str:
    terminated = torch.tensor([False] * 4 + [True] * 2 + [False] * 3 + [True] * 2)
    for place, flags, color in ((1, terminated, ORANGE), (0, terminated & ~terminated.roll(-1), BLUE)):
        t = flags.nonzero().squeeze(-1)
        axes.plot(t, torch.full_like(t, place), "|", color=color, markersize=12, markeredgewidth=3)
    axes.set(xlabel="row of the file", yticks=(0, 1), yticklabels=("passes", "refused"), ylim=(-0.6, 1.6))
    return "an end marked on two rows in a row is refused"
