"""A promise on the way of an episode that did not keep it."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import SOFT, Axes

T = torch.arange(12)


def relabel_return(axes: Axes) -> str:
    reward, end = torch.where(T < 6, 1.0, 0.0), T == 11
    next_value = torch.where(T == 4, 8.0, 0.0)
    axes.axvline(4, ymax=0.75, color=SOFT, linestyle=":")
    axes.plot(T, ol.relabel_return(reward, next_value, end, end), marker=".", label="relabelled")
    axes.plot(T, ol.discounted_return(reward, end, discount=1.0), marker=".", label="observed")
    axes.set(xlabel="t", ylabel="return-to-go", xticks=(0, 4, 8), ylim=(-0.5, 17))
    axes.legend(ncols=2, loc="upper center")
    return "the value behind step 4 is 8, more than what followed: all steps before it are relabelled"
