"""One action dimension, a critic whose best action is not the data's, and what it costs to leave that."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import SOFT, Axes


def _legend(axes: Axes, title: str) -> None:
    axes.legend(title=title, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 0.95))


def _with_minimum(axes: Axes, x: torch.Tensor, loss: torch.Tensor, label: str) -> None:
    low, place = loss.min(0)
    (line,) = axes.plot(x, loss - low, label=label)
    axes.plot(x[place], 0, "o", color=line.get_color(), markersize=5, clip_on=False, zorder=3)


def ddpg_bc_loss(axes: Axes) -> str:
    action = torch.linspace(-1, 2, 301)
    q = 1 - (action - 1.0).square()
    for bc_weight in (3.0, 1.0, 0.1):
        log_prob = ol.gaussian_log_prob(action.unsqueeze(-1), torch.zeros(1), torch.zeros(301, 1))
        _with_minimum(axes, action, ol.ddpg_bc_loss(q, log_prob, bc_weight=bc_weight, reduction="none"), f"{bc_weight}")
    axes.set(xlabel="mean of the policy", ylabel="loss", ylim=(-0.05, 3), xticks=(0, 1), xticklabels=("data", "best q"))
    _legend(axes, "bc_weight")
    return "the best policy (dots), from the data's action to the critic's"


def rebrac_policy_loss(axes: Axes) -> str:
    action = torch.linspace(-1, 2, 301).unsqueeze(-1)
    q = 1 - (action.squeeze(-1) - 1.0).square()
    for bc_weight in (3.0, 1.0, 0.1):
        loss = ol.rebrac_policy_loss(q, action, torch.zeros_like(action), bc_weight=bc_weight, reduction="none")
        _with_minimum(axes, action.squeeze(-1), loss, f"{bc_weight}")
    axes.set(xlabel="policy_action", ylabel="loss", ylim=(-0.05, 3), xticks=(0, 1), xticklabels=("data", "best q"))
    _legend(axes, "bc_weight")
    return "the best action (dots), from the data's to the critic's"


def rebrac_target(axes: Axes) -> str:
    action = torch.linspace(-1, 1, 101).unsqueeze(-1)
    zero, one, no = torch.zeros(101), torch.ones(101), torch.zeros(101, dtype=torch.bool)
    for bc_weight in (0.0, 0.2, 1.0):
        target = ol.rebrac_target(zero, one, action, torch.zeros(101, 1), no, no, bc_weight=bc_weight)
        axes.plot(action, target, label=f"{bc_weight}")
    axes.axvline(0, color=SOFT, linestyle=":")
    axes.set(xlabel="next_policy_action", ylabel="target", ylim=(-0.1, 1.1))
    _legend(axes, "bc_weight")
    return "lower, the farther from the data's next action (dotted)"
