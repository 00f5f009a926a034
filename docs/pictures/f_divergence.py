"""Three convex functions of a ratio, what a reward for the ratio is worth, and the ratio that it buys."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import SOFT, Axes

DIVERGENCES = ("kl", "chi_square", "soft_chi_square")
Y = torch.linspace(-3, 2.5, 221)


def f_divergence_penalty(axes: Axes) -> str:
    ratio = torch.linspace(0, 4, 201)
    for kind in DIVERGENCES:
        axes.plot(ratio, ol.f_divergence_penalty(ratio, divergence=kind, reduction="none"), label=kind)
    axes.axhline(0, color=SOFT, linewidth=0.7)
    axes.set(xlabel="ratio", ylabel="penalty", ylim=(-0.6, 4))
    axes.legend(loc="upper left")
    return "zero at a ratio of one; only the soft chi-square is entropy below it and a square above"


def f_conjugate(axes: Axes) -> str:
    for kind in DIVERGENCES:
        axes.plot(Y, ol.f_conjugate(Y, divergence=kind), label=kind)
    axes.axhline(0, color=SOFT, linewidth=0.7)
    axes.set(xlabel="y", ylabel="conjugate", ylim=(-1.2, 4))
    axes.legend(loc="upper left")
    return "convex and never falling, also where the reward is a punishment"


def dice_weights(axes: Axes) -> str:
    for kind in DIVERGENCES:
        axes.plot(Y, ol.dice_weights(Y, divergence=kind), label=kind)
    axes.set(xlabel="advantage", ylabel="weight", ylim=(-0.1, 4))
    axes.legend(loc="upper left")
    return "the slopes of the conjugates: never negative, and for the chi-square zero from −1 on"
