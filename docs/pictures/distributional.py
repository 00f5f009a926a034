"""How one value is spread over the atoms, how a distribution is moved, and how quantiles are learned."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import SOFT, Axes

SUPPORT = torch.linspace(-3, 3, 7)
VALUE = 0.7


def _bars(axes: Axes, probability: torch.Tensor) -> None:
    axes.bar(SUPPORT, probability, 0.7)
    axes.axvline(VALUE, color=SOFT, linestyle=":")
    axes.annotate("value", (VALUE, 0.95), (4, 0), textcoords="offset points", color=SOFT)
    axes.set(xlabel="atom", ylabel="probability", ylim=(0, 1), yticks=(0, 0.5, 1), xticks=(-3, -1, 1, 3))


def two_hot(axes: Axes) -> str:
    _bars(axes, ol.two_hot(torch.tensor(VALUE), SUPPORT))
    return "the two atoms around 0.7, the nearer one more"


def hl_gauss(axes: Axes) -> str:
    _bars(axes, ol.hl_gauss(torch.tensor(VALUE), SUPPORT))
    return "the same value spread over its neighbors"


def categorical_projection(axes: Axes) -> str:
    p = ol.hl_gauss(torch.tensor(0.0), SUPPORT, sigma_to_bin_ratio=1.0)
    atoms = 0.8 + 0.7 * SUPPORT
    axes.vlines(atoms, 0, p, color=SOFT, linewidth=1.2)
    axes.plot(atoms, p, "o", color=SOFT, markersize=3, label="r + γz")
    axes.bar(SUPPORT, ol.categorical_projection(p, atoms, SUPPORT), 0.7, label="projected")
    axes.set(xlabel="atom", ylabel="probability", ylim=(0, 0.62), yticks=(0, 0.25, 0.5), xticks=(-3, -1, 1, 3))
    axes.legend(loc="upper left")
    return "shifted and shrunk atoms moved back onto the support"


def categorical_loss(axes: Axes) -> str:
    x = torch.linspace(-4, 4, 161)
    logits = torch.stack([torch.zeros_like(x), x], -1)
    for p in (0.5, 0.8, 1.0):
        target = torch.tensor([1 - p, p]).expand_as(logits)
        axes.plot(x, ol.categorical_loss(logits, target, reduction="none"), label=f"{p:g}")
    axes.set(xlabel="logit of the second of two classes", ylabel="loss", ylim=(0, 3), yticks=(0, 1, 2, 3))
    axes.legend(title="its probability")
    return "least where the softmax is the target"


def categorical_value(axes: Axes) -> str:
    logits = -0.5 * (SUPPORT - 1).square()
    axes.bar(SUPPORT, logits.softmax(-1), 0.7)
    value = ol.categorical_value(logits, SUPPORT)
    axes.axvline(value, color=SOFT, linestyle=":")
    axes.annotate(f"value {value:.2f}", (value, 0.45), (-4, 0), textcoords="offset points", ha="right", color=SOFT)
    axes.set(xlabel="atom", ylabel="softmax", ylim=(0, 0.5), yticks=(0, 0.25, 0.5), xticks=(-3, -1, 1, 3))
    return "the mean of the distribution"


def quantile_huber_loss(axes: Axes) -> str:
    u = torch.linspace(-2.5, 2.5, 201)
    for level in (0.1, 0.5, 0.9):
        quantile = torch.full((1,), level)
        loss = ol.quantile_huber_loss(torch.zeros(201, 1), u.unsqueeze(-1), quantile=quantile, reduction="none")
        axes.plot(u, loss, label=f"{level:g}")
    axes.set(xlabel="u = target − prediction", ylabel="loss", ylim=(-0.05, 2.3), yticks=(0, 1, 2))
    axes.legend(title="quantile", ncols=3, loc="upper center")
    return "one quantile and one target: lines, round at zero"
