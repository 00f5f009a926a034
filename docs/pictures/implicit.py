"""Where each loss puts the value of five actions, how the losses bend, and the weights of the policy."""

from __future__ import annotations

import torch
from torch import Tensor

import offline_losses as ol
from pictures import SOFT, Axes

Q = torch.tensor([-1.0, 0.0, 0.5, 1.0, 3.0])
"""Values of the actions that the data show in one state."""

U = torch.linspace(-6, 6, 241)
T = torch.logspace(-1.5, 1.5, 61)


def value(name: str, **knobs: float | Tensor) -> Tensor:
    """The constant with the least mean loss over these actions."""
    grid = torch.linspace(-1.5, 3.5, 2001)
    rows = grid.unsqueeze(-1).expand(-1, len(Q))
    losses = getattr(ol, name)(rows, Q.expand_as(rows), reduction="none", **knobs)
    return grid[losses.mean(-1).argmin()]


def _between(axes: Axes, low: float, high: float) -> None:
    for level, label in ((low, "mean"), (high, "max")):
        axes.axhline(level, color=SOFT, linestyle=":")
        axes.annotate(label, (0, level), (3, 3), ("axes fraction", "data"), "offset points", color=SOFT)


def _value(axes: Axes, name: str) -> str:
    found = [value(name, temperature=t) for t in T]
    axes.plot(T, found)
    _between(axes, Q.mean().item(), Q.max().item())
    axes.set(xscale="log", xlabel="temperature", ylabel="value", ylim=(0.3, 3.5), yticks=(1, 2, 3))
    axes.xaxis.set_major_formatter("{x:g}")
    return ""


def gumbel_loss(axes: Axes) -> str:
    _value(axes, "gumbel_loss")
    return "the value of five actions rises from their mean to their maximum as the temperature falls"


def exponential_value_loss(axes: Axes) -> str:
    for bound in (1.0, 2.0, 5.0):
        loss = ol.exponential_value_loss(torch.zeros_like(U), U, max_exponent=bound, reduction="none")
        axes.plot(U, loss, label=f"{bound:g}")
    axes.set(xlabel="u = target − prediction", ylabel="loss", xlim=(-3, 4), ylim=(-0.5, 25), yticks=(0, 10, 20))
    axes.legend(title="max_exponent", loc="upper left")
    return "an exponential that goes on as its tangent"


def sparse_value_loss(axes: Axes) -> str:
    _value(axes, "sparse_value_loss")
    return "from the mean, which it reaches, to the maximum: actions far below the value do not count"


def sparse_weights(axes: Axes) -> str:
    axes.plot(U, ol.sparse_weights(U), label="sparse_weights")
    axes.plot(U, ol.awr_weights(U), label="awr_weights")
    axes.set(xlabel="advantage", ylabel="weight", xlim=(-4, 4), ylim=(-0.2, 5))
    axes.legend(loc="upper left")
    return "zero for bad actions, a line for good ones"


def binary_expectile_loss(axes: Axes) -> str:
    y, levels = torch.tensor([0.1, 0.2, 0.3, 0.9]), torch.linspace(0.02, 0.98, 49)
    slope = torch.func.vmap(torch.func.grad(lambda x, e: ol.binary_expectile_loss(x.expand(4), y, expectile=e)))
    logits = torch.zeros(49)
    for _ in range(400):
        logits = logits - 2 * slope(logits, levels)
    axes.plot(levels, logits.sigmoid())
    _between(axes, y.mean().item(), y.max().item())
    axes.set(xlabel="expectile", ylabel="value", ylim=(0, 1), yticks=(0, 0.5, 1))
    return "where gradient descent on four chances of success comes to rest"
