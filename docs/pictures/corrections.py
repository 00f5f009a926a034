"""What the trace coefficients keep: how much of an error at each step reaches the first one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import offline_losses as ol
from pictures import Axes

STEPS = 10
T = torch.arange(STEPS)
NOTHING, LAST = torch.zeros(STEPS), T == STEPS - 1


def _kept(correction: Callable[[Tensor], Tensor]) -> Tensor:
    """The derivative of the first step's return by the reward of each step."""
    reward = torch.zeros(STEPS, requires_grad=True)
    (kept,) = torch.autograd.grad(correction(reward)[0], reward)
    return kept


def _lines(axes: Axes, title: str, lines: dict[str, Tensor], **settings: Any) -> None:
    for label, line in lines.items():
        axes.plot(T, line, marker=".", label=label)
    axes.set(xlabel="step of the error", ylabel="kept at step 0", xticks=(0, 3, 6, 9), ylim=(-0.05, 1.75), **settings)
    axes.set_yticks((0, 0.5, 1))
    axes.legend(title=title, ncols=3, loc="upper center")


def trace_return(axes: Axes) -> str:
    def kept(trace: float | Tensor) -> Tensor:
        return _kept(
            lambda reward: ol.trace_return(reward, NOTHING, NOTHING, LAST, LAST, trace=trace, ratio=1.0, discount=1.0)
        )

    once = torch.where(T == 4, 0.3, 1.0)
    _lines(axes, "trace", {"1": kept(1.0), "0.8": kept(0.8), "once 0.3": kept(once)})
    return "each error is multiplied by all traces on the way to it"


def retrace_return(axes: Axes) -> str:
    def kept(ratio: float) -> Tensor:
        log_ratio = torch.where(T % 3 == 0, ratio, 1.0).log()
        return _kept(lambda reward: ol.retrace_return(reward, NOTHING, NOTHING, log_ratio, LAST, LAST, discount=1.0))

    _lines(axes, "ratio of every third action", {f"{ratio:g}": kept(ratio) for ratio in (4.0, 0.5, 0.0)})
    return "an action that the policy avoids cuts; one that it likes more than the data do makes up for nothing"


def tree_backup_return(axes: Axes) -> str:
    def kept(probability: float) -> Tensor:
        log_prob = torch.full((STEPS,), probability).log()
        return _kept(lambda reward: ol.tree_backup_return(reward, NOTHING, NOTHING, log_prob, LAST, LAST, discount=1.0))

    _lines(axes, "probability of the action", {f"{p:g}": kept(p) for p in (1.0, 0.8, 0.4)})
    return "short wherever the policy is not sure, also on its own data"
