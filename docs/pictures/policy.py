"""The loss of a policy over its one parameter; dots are minima."""

from __future__ import annotations

from typing import Any

import torch

import offline_losses as ol
from pictures import SOFT, Axes


def _curve(axes: Axes, x: torch.Tensor, loss: torch.Tensor, label: Any) -> None:
    low, place = loss.min(0)
    (line,) = axes.plot(x, loss - low, label=f"{label}")
    axes.plot(x[place], 0, "o", color=line.get_color(), markersize=5, clip_on=False, zorder=3)


def _legend(axes: Axes, title: str) -> None:
    axes.legend(title=title, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 0.95))


def nll_loss(axes: Axes) -> str:
    actions = torch.tensor([-1.0, 0.0, 2.0])
    mean, action = torch.meshgrid(torch.linspace(-2, 3, 201), actions, indexing="ij")
    log_prob = ol.gaussian_log_prob(mean.unsqueeze(-1), torch.zeros(1), action.unsqueeze(-1))
    for label, weights in (("none", [1.0, 1.0, 1.0]), ("AWR", [0.5, 0.5, 2.0]), ("filter", [0.0, 0.0, 1.0])):
        weight = torch.tensor(weights).expand_as(log_prob)
        _curve(axes, mean[:, 0], ol.nll_loss(log_prob, weight=weight, reduction="none").mean(-1), label)
    axes.plot(actions, [0.1] * 3, "|", color=SOFT)
    axes.set(xlabel="mean of the policy", ylabel="loss", ylim=(-0.05, 3))
    _legend(axes, "weight")
    return "weights choose which actions (ticks) the best policy (dots) imitates"


def td3_bc_loss(axes: Axes) -> str:
    action = torch.linspace(-1, 2, 301).unsqueeze(-1)
    q = 1 - (action.squeeze(-1) - 1.0) ** 2
    for q_weight in (0.5, 2.5, 10.0):
        loss = ol.td3_bc_loss(q, action, torch.zeros_like(action), q_weight=q_weight, reduction="none")
        _curve(axes, action.squeeze(-1), loss, q_weight)
    axes.set(xlabel="policy_action", ylabel="loss", ylim=(-0.1, 5), xticks=(0, 1), xticklabels=("data", "best q"))
    _legend(axes, "q_weight")
    return "the best action (dots), from the data's to the critic's"


def sac_policy_loss(axes: Axes) -> str:
    normal = torch.special.ndtri(torch.linspace(0.005, 0.995, 100))
    std, noise = torch.meshgrid(torch.linspace(0.1, 2, 200), normal, indexing="ij")
    action = (std * noise).unsqueeze(-1)
    log_prob = ol.gaussian_log_prob(torch.zeros_like(action), std.log().unsqueeze(-1), action)
    for temperature in (0.1, 0.5, 2.0):
        q = -action.squeeze(-1).square()
        loss = ol.sac_policy_loss(log_prob, q, temperature=temperature, reduction="none")
        _curve(axes, std[:, 0], loss.mean(-1), temperature)
    axes.set(xlabel="deviation of the policy", ylabel="loss", ylim=(-0.05, 3), xlim=(0, 2))
    _legend(axes, "temperature")
    return "the best policy (dots) is wider at a higher temperature"


def temperature_loss(axes: Axes) -> str:
    entropy = torch.linspace(-3, 1, 41)

    def loss(log_temperature: torch.Tensor) -> torch.Tensor:
        return ol.temperature_loss(log_temperature, -entropy, target_entropy=-1.0, reduction="none")

    for temperature in (0.5, 1.0):
        axes.plot(entropy, -torch.func.jacfwd(loss)(torch.tensor(temperature).log()), label=f"{temperature}")
    axes.axhline(0, color=SOFT, linewidth=0.7)
    axes.axvline(-1, color=SOFT, linestyle=":")
    axes.set(xlabel="entropy, −log_prob", ylabel="−gradient")
    _legend(axes, "temperature")
    return "the temperature rises while the entropy is below its target (dotted)"
