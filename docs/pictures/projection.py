"""A head over classes, each of which is a direction: what the action costs as the hidden state turns."""

from __future__ import annotations

import math

import torch

import offline_losses as ol
from pictures import Axes

ANGLE = torch.linspace(-math.pi, math.pi, 241)
HIDDEN = 3 * torch.stack([ANGLE.cos(), ANGLE.sin()], -1)
CLASSES = torch.linspace(-math.pi, math.pi, 9)[:-1]
HEAD = torch.stack([CLASSES.cos(), CLASSES.sin()], -1)
ACTION = torch.full((241,), 4)  # at angle 0


def linear_log_prob(axes: Axes) -> str:
    for temperature in (0.5, 1.0, 2.0):
        found = ol.linear_log_prob(HIDDEN, HEAD, ACTION, temperature=temperature)
        axes.plot(ANGLE, found.log_prob.exp(), label=f"{temperature:g}")
    axes.set(xlabel="angle of the hidden state", ylabel="probability of the action at 0", ylim=(0, 1))
    axes.legend(title="temperature")
    return "eight classes, each a direction: likeliest where the hidden state points to it"


def linear_cql_penalty(axes: Axes) -> str:
    for temperature in (0.1, 1.0, 2.0):
        penalty = ol.linear_cql_penalty(HIDDEN, HEAD, ACTION, temperature=temperature, reduction="none")
        axes.plot(ANGLE, penalty, label=f"{temperature:g}")
    axes.set(xlabel="angle of the hidden state", ylabel="penalty")
    axes.legend(title="temperature", loc="upper center")
    return "a low temperature counts only the best of the other actions"


def linear_nll_loss(axes: Axes) -> str:
    for size in (0.5, 1.0, 2.0):
        axes.plot(ANGLE, ol.linear_nll_loss(size * HIDDEN, HEAD, ACTION, reduction="none"), label=f"{3 * size:g}")
    axes.set(xlabel="angle of the hidden state", ylabel="loss")
    axes.legend(title="length of the hidden state", loc="upper center")
    return "a longer hidden state is surer of itself, and pays more where it is wrong"
