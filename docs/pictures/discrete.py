"""A state of few actions: what the policy's randomness is paid, and what its second best loses."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import Axes


def _legend(axes: Axes, title: str) -> None:
    axes.legend(title=title, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 0.95))


def discrete_sac_loss(axes: Axes) -> str:
    p = torch.linspace(0, 1, 201)
    logits, q = torch.stack([p, 1 - p], -1).log(), torch.tensor([1.0, 0.0]).expand(201, 2)
    for temperature in (0.1, 0.5, 2.0):
        loss = ol.discrete_sac_loss(logits, q, temperature=temperature, reduction="none")
        low, place = loss.min(0)
        (line,) = axes.plot(p, loss - low, label=f"{temperature}")
        axes.plot(p[place], 0, "o", color=line.get_color(), markersize=5, clip_on=False, zorder=3)
    axes.set(xlabel="probability of the better of two actions", ylabel="loss", ylim=(-0.05, 1.2))
    _legend(axes, "temperature")
    return "the best policy (dots) is more even at a higher temperature"


def discrete_soft_target(axes: Axes) -> str:
    p = torch.linspace(0, 1, 201)
    logits, q = torch.stack([p, 1 - p], -1).log(), torch.tensor([1.0, 0.0]).expand(201, 2)
    zero, no = torch.zeros(201), torch.zeros(201, dtype=torch.bool)
    for temperature in (0.0, 0.5, 1.0):
        axes.plot(p, ol.discrete_soft_target(zero, q, logits, no, temperature=temperature), label=f"{temperature}")
    axes.set(xlabel="probability of the better of two actions", ylabel="target")
    _legend(axes, "temperature")
    return "the mean value, and what its randomness is paid on top"


def munchausen_reward(axes: Axes) -> str:
    p = torch.linspace(0.001, 1, 400)
    for temperature in (0.1, 0.3, 1.0):
        axes.plot(p, ol.munchausen_reward(torch.zeros(400), p.log(), temperature=temperature), label=f"{temperature}")
    axes.set(xlabel="probability of the data's action", ylabel="added to the reward", ylim=(-1, 0.05))
    _legend(axes, "temperature")
    return "nothing where the policy is sure of it, at least −0.9 where it is not"


def advantage_learning_reward(axes: Axes) -> str:
    q, value = torch.linspace(0, 1, 51), torch.ones(51)
    for share in (0.0, 0.5, 0.9):
        axes.plot(q, ol.advantage_learning_reward(torch.zeros(51), q, value, bonus_weight=share), label=f"{share}")
    axes.set(xlabel="q of the data's action, of at most 1", ylabel="added to the reward")
    _legend(axes, "bonus_weight")
    return "nothing for the best action, the more the worse it is"
