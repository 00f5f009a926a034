"""Which values the penalties push, and how hard."""

from __future__ import annotations

from collections.abc import Callable

import torch

import offline_losses as ol
from pictures import BLUE, ORANGE, SOFT, Axes

Q, DATA = torch.tensor([1.0, 2.0, 1.5, 3.0, 0.5]), 2
"""Values of five actions, and which of them is the data's."""


def _push(axes: Axes, penalty: Callable[..., torch.Tensor]) -> None:
    (slope,) = torch.autograd.functional.jacobian(lambda q: penalty(q, q[:, DATA]), Q.unsqueeze(0))
    axes.bar(range(5), slope, color=[ORANGE if x > 0 else BLUE for x in slope])
    axes.axhline(0, color=SOFT, linewidth=0.7)
    labels = [f"{q:g}" + "\ndata" * (i == DATA) for i, q in enumerate(Q)]
    axes.set(xticks=range(5), xticklabels=labels, xlabel="q of each action", ylabel="gradient", ylim=(-1.1, 1.1))


def cql_logsumexp_penalty(axes: Axes) -> str:
    _push(axes, ol.cql_logsumexp_penalty)
    return "softmax minus one-hot: descent lowers high values, lifts the data's"


def cql_max_penalty(axes: Axes) -> str:
    _push(axes, ol.cql_max_penalty)
    return "descent lowers the best action alone"


def cql_lagrange_losses(axes: Axes) -> str:
    updates = torch.arange(200)
    gaps, log_multiplier = 5 + 4 * torch.cos(updates / 30), torch.zeros((), requires_grad=True)
    optimizer, multipliers = torch.optim.SGD([log_multiplier], lr=0.006), []
    for gap in gaps:
        optimizer.zero_grad()
        ol.cql_lagrange_losses(gap, log_multiplier, threshold=5.0).dual.backward()
        optimizer.step()
        multipliers.append(float(log_multiplier.detach().exp()))
    axes.plot(updates, gaps, color=SOFT, linewidth=1, label="gap")
    axes.axhline(5, color=SOFT, linestyle=":")
    axes.plot(updates, multipliers, label="multiplier")
    axes.set(xlabel="updates", ylim=(0, 13))
    axes.legend(loc="upper right", ncols=2)
    return "the multiplier rises while the gap exceeds the threshold (dotted)"


def calibrated_value(axes: Axes) -> str:
    action = torch.linspace(-1, 1, 101)
    q = torch.sin(4 * action) + action
    axes.plot(action, q, color=SOFT, linewidth=1, label="q_candidates")
    axes.axhline(0.3, color=SOFT, linestyle=":")
    axes.plot(action, ol.calibrated_value(q, torch.tensor(0.3)), label="calibrated")
    axes.set(xlabel="action of the policy", ylabel="q", ylim=(-1.7, 3), xticks=(-1, 0, 1))
    axes.legend(loc="upper left")
    return "never below the reference_value (dotted)"
