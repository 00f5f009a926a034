"""The process of off-policy evaluation without an end, whose visits are known, and losses over all of it at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from evaluation import PROCESS
from torch import Tensor

DISCOUNT = PROCESS.discount
DATA = torch.tensor([[0.1, 0.4], [0.3, 0.2]], dtype=torch.float64)
"""How often the data have each state and action; no policy's visits."""
STAYS = PROCESS.following + (1 - PROCESS.following.sum(-1, keepdim=True)) * PROCESS.start
"""The process without an end: where it ended it starts anew."""

Losses = Callable[..., Tensor]


def visits(policy: Tensor) -> Tensor:
    """Normalized discounted visits [S, A] of a policy [S, A]."""
    step = torch.einsum("sat,sa->st", STAYS, policy)
    states = torch.linalg.solve((torch.eye(2).double() - DISCOUNT * step).T, (1 - DISCOUNT) * PROCESS.start)
    return states.unsqueeze(-1) * policy


def returns(policy: Tensor) -> Tensor:
    return (visits(policy) * PROCESS.reward).sum()


def deterministic_error(value: Tensor, following: Tensor) -> dict[str, Any]:
    """Arguments of a loss `[S, A]` whose next value is the mean over next states."""
    flags = torch.zeros(value.shape, dtype=torch.bool)
    return {"value": value, "next_value": following, "terminated": flags, "discount": DISCOUNT}


def minimized(loss: Callable[[Tensor], Tensor], *shape: int) -> Tensor:
    """By Newton's method, with half steps where a whole one does not go down."""
    x = torch.zeros(shape, dtype=torch.float64)
    for _ in range(200):
        slope = torch.autograd.functional.jacobian(loss, x).flatten()
        curve = torch.autograd.functional.hessian(loss, x).reshape(len(slope), -1)
        if slope.abs().max() < 1e-9:
            break
        step = torch.linalg.lstsq(curve + 1e-9 * torch.eye(len(slope)), slope.unsqueeze(-1)).solution.view(shape)
        size = 1.0
        while loss(x - size * step) > loss(x) and size > 1e-9:
            size /= 2
        x = x - size * step
    return x


def of_action_values(loss: Losses, policy: Tensor, **more: Any) -> Callable[[Tensor], Tensor]:
    """Mean over the data of a loss of nu(s, a), the policy's next action averaged over."""

    def mean(nu: Tensor) -> Tensor:
        value = (policy * nu).sum(-1)
        first = (PROCESS.start @ value).expand(2, 2)
        return loss(**deterministic_error(nu, STAYS @ value), initial_value=first, weight=DATA, reduction="sum", **more)

    return mean


def of_state_values(loss: Losses, **more: Any) -> Callable[[Tensor], Tensor]:
    """Mean over the data of a loss of V(s)."""

    def mean(v: Tensor) -> Tensor:
        first, value = (PROCESS.start @ v).expand(2, 2), v.unsqueeze(-1).expand(2, 2)
        arguments = deterministic_error(value, STAYS @ v)
        return loss(**arguments, initial_value=first, reward=PROCESS.reward, weight=DATA, reduction="sum", **more)

    return mean


def errors(v: Tensor) -> Tensor:
    return PROCESS.reward + DISCOUNT * STAYS @ v - v.unsqueeze(-1)
