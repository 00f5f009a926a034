"""A sparse reward, and how far back it is felt."""

from __future__ import annotations

from typing import Any

import torch

import offline_losses as ol
from pictures import SOFT, Axes

STEPS = 12
T = torch.arange(STEPS)
REWARD, LAST = (T == STEPS - 1).float(), T == STEPS - 1
"""One reward, on the last step of the only episode, which terminates there."""


def _lines(axes: Axes, title: str, lines: dict[Any, torch.Tensor], loc: str = "upper center", **settings: Any) -> None:
    for label, line in lines.items():
        axes.plot(T, line, marker=".", label=f"{label}")
    axes.set(xlabel="t", xticks=(0, 3, 6, 9), **settings)
    axes.legend(title=title, ncols=3, loc=loc)


def discounted_return(axes: Axes) -> str:
    reward, done = torch.ones(STEPS), (T == 6) | LAST
    discounts = (1.0, 0.8, 0.5)
    lines = {discount: ol.discounted_return(reward, done, discount=discount) for discount in discounts}
    axes.axvline(6.5, ymax=0.65, color=SOFT, linestyle=":")
    _lines(axes, "discount", lines, ylabel="return", ylim=(0, 10))
    return "the rewards (1 each) still to come before done (dotted)"


def n_step_return(axes: Axes) -> str:
    nothing = torch.zeros(STEPS)
    lines = {n: ol.n_step_return(REWARD, nothing, LAST, LAST, n=n, discount=0.9) for n in (8, 4, 1)}
    _lines(axes, "n", lines, ylabel="return", ylim=(-0.05, 1.4), yticks=(0, 0.5, 1))
    return "the reward at the end reaches n steps back"


def lambda_return(axes: Axes) -> str:
    half, lambdas = torch.full((STEPS,), 0.5), (1.0, 0.7, 0.0)
    lines = {lambda_: ol.lambda_return(REWARD, half, LAST, LAST, discount=1.0, lambda_=lambda_) for lambda_ in lambdas}
    _lines(axes, "lambda_", lines, "lower center", ylabel="return", ylim=(0, 1.05), yticks=(0, 0.5, 1))
    return "1 trusts the rewards (their sum is 1), 0 the next_value (½)"


def generalized_advantage(axes: Axes) -> str:
    nothing = torch.zeros(STEPS)
    reward = torch.where(T == 4, 1.0, torch.where(T == 9, -1.0, 0.0))
    lines = {
        lambda_: ol.generalized_advantage(reward, nothing, nothing, LAST, LAST, discount=1.0, lambda_=lambda_)
        for lambda_ in (0.8, 0.5, 0.0)
    }
    _lines(axes, "lambda_", lines, ylabel="advantage", ylim=(-1.1, 2.1), yticks=(-1, 0, 1))
    return "a larger lambda_ credits a surprise (±1) to more steps before it"
