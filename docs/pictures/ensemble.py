"""Five critics over one action, and one parameter that follows another."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import SOFT, Axes

ACTION = torch.linspace(-1, 1, 101)
SHIFTS = torch.linspace(0, 4, 5).unsqueeze(-1)
CRITICS = 2 * torch.cos(1.5 * ACTION) + (0.1 + ACTION**2) * torch.sin(3 * ACTION + 1.7 * SHIFTS)
"""`[5, 101]`: they agree in the middle, where the data would be."""


def _critics(axes: Axes) -> None:
    axes.plot(ACTION, CRITICS.T, color=SOFT, linewidth=0.7)
    axes.set(xlabel="action", ylabel="q", xticks=(-1, 0, 1))


def ensemble_min(axes: Axes) -> str:
    _critics(axes)
    axes.plot(ACTION, ol.ensemble_min(CRITICS))
    return "lowest where the critics disagree"


def ensemble_mean(axes: Axes) -> str:
    _critics(axes)
    axes.plot(ACTION, ol.ensemble_mean(CRITICS))
    return "the middle, however far they disagree"


def ensemble_mix(axes: Axes) -> str:
    _critics(axes)
    for lambda_ in (1.0, 0.75, 0.0):
        axes.plot(ACTION, ol.ensemble_mix(CRITICS, lambda_=lambda_), label=f"{lambda_}")
    axes.set(ylim=(-1.2, 3.9))
    axes.legend(title="lambda_", ncols=3, loc="upper center")
    return "from the minimum (1) to the maximum (0)"


def ensemble_subset_min(axes: Axes) -> str:
    _critics(axes)
    for index in ([0, 1], [2, 4]):
        axes.plot(ACTION, ol.ensemble_subset_min(CRITICS, torch.tensor(index)), label=f"{index}")
    axes.plot(ACTION, ol.ensemble_min(CRITICS), color=SOFT, linestyle=":")
    axes.set(ylim=(-1.2, 3.9))
    axes.legend(title="index", ncols=2, loc="upper center")
    return "above the minimum of all (dotted), another each time"


def polyak_update_(axes: Axes) -> str:
    online = torch.ones(1)
    for polyak in (0.2, 0.05, 0.01):
        target, followed = torch.zeros(1), [0.0]
        for _ in range(60):
            ol.polyak_update_([target], [online], polyak=polyak)
            followed.append(float(target))
        axes.plot(followed, label=f"{polyak}")
    axes.axhline(1, color=SOFT, linestyle=":")
    axes.set(xlabel="updates", ylabel="target", ylim=(-0.05, 1.5), yticks=(0, 0.5, 1))
    axes.legend(title="polyak", ncols=3, loc="upper center")
    return "a larger polyak follows online (dotted) faster"
