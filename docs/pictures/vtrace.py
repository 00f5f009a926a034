"""One step, and a row of steps, by how likely the policy is to act as the data do."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import SOFT, Axes

STEPS = 12
T = torch.arange(STEPS)
NOTHING, LAST = torch.zeros(STEPS), T == STEPS - 1
RATIO = torch.linspace(0.02, 4, 100)


def vtrace_return(axes: Axes) -> str:
    zero, end = torch.zeros(100, 1), torch.ones(100, 1, dtype=torch.bool)
    for bound in (1.0, 2.0, float("inf")):
        reward, log_ratio = torch.ones(100, 1), RATIO.log().unsqueeze(-1)
        g = ol.vtrace_return(reward, zero, zero, log_ratio, end, end, max_ratio=bound)
        axes.plot(RATIO, g.squeeze(-1), label=f"{bound:g}")
    axes.axvline(1, color=SOFT, linestyle=":")
    axes.set(xlabel="ratio π / μ of the action", ylabel="return − value", ylim=(0, 5.6), xticks=(0, 1, 2, 3, 4))
    axes.legend(title="max_ratio", ncols=3, loc="upper center")
    return "an error of 1 counts as its ratio, up to the bound"


def vtrace_advantage(axes: Axes) -> str:
    reward = torch.where(T == 9, 1.0, 0.0)
    for ratio in (1.0, 0.8, 0.5):
        log_ratio = torch.full((STEPS,), ratio).log()
        a = ol.vtrace_advantage(reward, NOTHING, NOTHING, log_ratio, LAST, LAST, discount=1.0)
        axes.plot(T, a, marker=".", label=f"{ratio:g}")
    axes.set(xlabel="t", ylabel="advantage", xticks=(0, 3, 6, 9), yticks=(0, 0.5, 1), ylim=(-0.05, 1.75))
    axes.legend(title="ratio of all actions", ncols=3, loc="upper center")
    return "a surprise at step 9 is felt as far back as the policy would have acted alike"
