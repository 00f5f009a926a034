"""The linear recurrence, read from right to left."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import SOFT, Axes


def linear_recurrence(axes: Axes) -> str:
    t = torch.arange(13)
    b, a, cut = torch.ones(13), torch.full((13,), 0.8), t == 6
    axes.plot(t, ol.linear_recurrence(b, a), color=SOFT, marker=".", linewidth=1, label="without")
    axes.plot(t, ol.linear_recurrence(b, a, cut=cut), marker=".", label="with a cut")
    axes.axvline(6, color=SOFT, linestyle=":")
    axes.set(xlabel="t", ylabel="x", ylim=(0, 6.4), xticks=(0, 6, 12))
    axes.legend(loc="upper right")
    return "backwards in time, and afresh from a cut"
