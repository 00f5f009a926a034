"""One state, a critic over its actions, and what is pushed where the data hold nothing."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import BLUE, ORANGE, SOFT, Axes


def combo_penalty(axes: Axes) -> str:
    q, rollout = torch.tensor([1.0, 2.0, 3.0, 2.0, 1.5]), torch.tensor([False, False, True, True, True])
    slope = torch.autograd.functional.jacobian(lambda x: ol.combo_penalty(x, rollout), q)
    axes.bar(range(5), slope, color=[ORANGE if x > 0 else BLUE for x in slope])
    axes.axhline(0, color=SOFT, linewidth=0.7)
    labels = ["model" if x else "data" for x in rollout]
    axes.set(xticks=range(5), xticklabels=labels, ylabel="gradient", ylim=(-0.7, 0.7))
    return "descent lowers the model's samples and lifts the data's"


def mcq_loss(axes: Axes) -> str:
    q = torch.linspace(-1, 4, 101)
    behavior = torch.tensor([0.2, 0.8, 1.5])
    axes.plot(q, ol.mcq_loss(q, behavior.expand(101, 3), reduction="none"))
    for value in behavior:
        axes.axvline(float(value), color=SOFT, linestyle=":")
    axes.set(xlabel="q of the policy's action", ylabel="loss", ylim=(-0.3, 5))
    return "zero at the best action of the data (dotted: its actions)"
