"""Pairs of states: how likely one follows the other, and how far it is."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import BLUE, GREEN, ORANGE, SOFT, Axes


def contrastive_loss(axes: Axes) -> str:
    own = torch.linspace(-4, 6, 101)
    logits = torch.cat([own[:, None], torch.zeros(101, 7)], -1)
    for form in ("binary", "balanced_binary", "infonce"):
        loss = ol.contrastive_loss(logits, torch.zeros(101, dtype=torch.long), form=form, reduction="none")
        axes.plot(own, loss, label=form.replace("_", " "))
    axes.set(xlabel="logit of the own goal, 7 others at 0", ylabel="loss", ylim=(0, 7.5))
    axes.legend(loc="upper right")
    return "in the mean of all pairs the own goal has one part in 8"


def quasimetric_losses(axes: Axes) -> str:
    distance = torch.linspace(0, 40, 201)
    losses = ol.quasimetric_losses(distance, distance / 10, torch.tensor(1.5), reduction="none")
    axes.plot(distance, losses.push, color=BLUE, label="push, of d(s, g)")
    axes.plot(distance / 10, losses.penalty, color=ORANGE, label="penalty, of d(s, s′)")
    axes.axvline(1, color=SOFT, linestyle=":")
    axes.set(xlabel="distance", ylabel="loss", ylim=(-1, 25))
    axes.legend(loc="upper right")
    return "far pairs are pushed on, a step longer than its cost is held"


def transitive_target(axes: Axes) -> str:
    steps, error = torch.arange(2, 41), 0.9
    half = error * 0.95 ** (steps / 2)
    target = ol.transitive_target(half, half, steps // 2, steps - steps // 2, discount=0.95)
    axes.plot(steps, 0.95**steps, color=SOFT, linestyle=":", label="true value")
    axes.plot(steps, half, color=GREEN, label="of each half")
    axes.plot(steps, target, color=BLUE, label="target")
    axes.set(xlabel="steps to the goal", ylabel="value", ylim=(0, 1.35))
    axes.legend(ncols=2, loc="upper center")
    return "halves that are a tenth too low multiply; one step is known"


def transitive_weights(axes: Axes) -> str:
    steps = torch.linspace(0, 40, 201)
    for exponent in (0.0, 0.5, 1.0, 2.0):
        weight = ol.transitive_weights(0.95**steps, discount=0.95, exponent=exponent)
        axes.plot(steps, weight, label=f"{exponent:g}")
    axes.set(xlabel="steps to the goal", ylabel="weight", ylim=(0, 1.4), yticks=(0, 0.5, 1))
    axes.legend(title="exponent", ncols=4, loc="upper center")
    return "near goals weigh more"
