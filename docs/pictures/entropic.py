"""The soft maximum of a few candidates against the temperature."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import SOFT, Axes

Q = torch.tensor([0.0, 1.0, 3.0])
T = torch.logspace(-1, 1, 101)


def soft_value(axes: Axes) -> str:
    for label, log_density in (("all actions", None), ("samples of density 1", torch.zeros_like(Q))):
        axes.plot(T, [ol.soft_value(Q, log_density=log_density, temperature=t) for t in T], label=label)
    axes.axhline(Q.max(), color=SOFT, linestyle=":")
    axes.annotate("max q", (10, 3), (0, -3), textcoords="offset points", ha="right", va="top", color=SOFT)
    axes.set(xscale="log", xlabel="temperature", ylabel="soft value", ylim=(0, 8))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(loc="upper left")
    return "the maximum at temperature 0, from above for a sum over all actions"


def softmax_weights(axes: Axes) -> str:
    places = range(len(Q))
    for shift, temperature in zip((-0.27, 0.0, 0.27), (0.3, 1.0, 3.0), strict=True):
        weights = ol.softmax_weights(Q, temperature=temperature)
        axes.bar([place + shift for place in places], weights, 0.25, label=f"{temperature:g}")
    axes.set(
        xticks=places,
        xticklabels=[f"{q:g}" for q in Q],
        xlabel="q",
        ylabel="weight",
        ylim=(0, 1.05),
        yticks=(0, 0.5, 1),
    )
    axes.legend(title="temperature")
    return "a low temperature gives all weight to the best candidate"


def softmax_entropy(axes: Axes) -> str:
    axes.plot(T, [ol.softmax_entropy(Q, temperature=t) for t in T])
    axes.axhline(torch.tensor(3.0).log(), color=SOFT, linestyle=":")
    axes.annotate("log N", (0.1, 1.1), (0, -3), textcoords="offset points", va="top", color=SOFT)
    axes.set(xscale="log", xlabel="temperature", ylabel="entropy", ylim=(-0.05, 1.2), yticks=(0, 0.5, 1))
    axes.xaxis.set_major_formatter("{x:g}")
    return "from 0 (one candidate) to log N (all alike)"
