"""Sampled actions of one state, or the advantages of one batch, and what is made of them."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import BLUE, ORANGE, SOFT, Axes


def mpo_weights(axes: Axes) -> str:
    q = torch.tensor([0.0, 1.0, 1.5, 3.0])
    for shift, temperature in ((-0.25, 0.5), (0.0, 1.0), (0.25, 4.0)):
        w = ol.mpo_weights(q, temperature=temperature)
        axes.bar(torch.arange(4) + shift, w, 0.22, label=f"{temperature}")
    axes.set(xticks=range(4), xticklabels=[f"{x:g}" for x in q], xlabel="q of the sample", ylabel="weight")
    axes.legend(title="temperature", loc="upper left")
    return "the lower the temperature, the more the best sample takes"


def mpo_temperature_loss(axes: Axes) -> str:
    q, temperature = torch.tensor([[0.0, 1.0, 1.5, 3.0]]), torch.linspace(0.2, 4, 200)
    for max_kl in (0.05, 0.1, 0.4):
        loss = torch.stack([ol.mpo_temperature_loss(t.log(), q, max_kl=max_kl) for t in temperature])
        (line,) = axes.plot(temperature, loss, label=f"{max_kl}")
        low, place = loss.min(0)
        axes.plot(temperature[place], low, "o", color=line.get_color(), markersize=5)
    axes.set(xlabel="temperature", ylabel="loss", ylim=(1.5, 3.5))
    axes.legend(title="max_kl", ncols=3, loc="lower center", bbox_to_anchor=(0.5, 0.95))
    return "its minimum (dots) is the temperature at which the weights stray that far"


def _ranked(axes: Axes, taken: torch.Tensor, advantage: torch.Tensor) -> None:
    axes.bar(range(len(advantage)), advantage, color=[ORANGE if x else BLUE for x in taken])
    axes.axhline(0, color=SOFT, linewidth=0.7)
    axes.set(xticks=[], xlabel="samples of the batch", ylabel="advantage")


def top_fraction_weights(axes: Axes) -> str:
    advantage = torch.tensor([0.4, -0.8, 1.2, 1.2, -0.3, 0.9, 1.2, -1.1])
    _ranked(axes, ol.top_fraction_weights(advantage, fraction=0.25) > 0, advantage)
    return "a quarter of eight is two (orange), though three are equal"


def advantage_indicator(axes: Axes) -> str:
    advantage, task = torch.tensor([1.6, 1.9, 1.5, 2.2, -1.0, 0.3, -0.4, -0.2]), torch.arange(8) // 4
    best = [ol.advantage_indicator(advantage, fraction=0.5, mask=task == k) for k in range(2)]
    _ranked(axes, best[0] | best[1], advantage)
    axes.axvline(3.5, color=SOFT, linestyle=":")
    return "the better half (orange) of each of two tasks"


def best_of_n(axes: Axes) -> str:
    action = torch.tensor([[-0.8], [-0.3], [0.1], [0.5], [0.9]])
    grid = torch.linspace(-1, 1, 101)
    axes.plot(grid, 1 - (grid - 0.4).square(), color=SOFT)
    q = 1 - (action.squeeze(-1) - 0.4).square()
    axes.plot(action.squeeze(-1), q, "o", color=BLUE)
    best = ol.best_of_n(q, action)
    axes.plot(best, 1 - (best - 0.4).square(), "o", color=ORANGE)
    axes.set(xlabel="action", ylabel="q")
    return "the candidate (dots) of the highest value is taken (orange)"
