"""Sparse Q-learning, and exponential with --exponential: an in-sample value whose weights leave bad actions out.

Xu et al., Offline RL with No OOD Actions: In-Sample Learning via Implicit Value Regularization, arXiv:2303.15810. The
value pays for leaving the behavior policy. If it pays by a chi-squared divergence, actions more than 2 T below V get a
weight of exactly zero (SQL); if by a Kullback-Leibler divergence, weights are exponential (EQL) and the method is
extreme Q-learning.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from common import Report, Result, arguments, minimize, train
from flags import number
from networks import Value, imitation_policy, twin_critics
from runs import knob, side_by_side
from task import load_task
from tensordict import TensorDict
from torch import Tensor
from torch.optim import Adam

from offline_losses import (
    awr_weights,
    bellman_target,
    ensemble_min,
    exponential_value_loss,
    nll_loss,
    polyak_update_,
    sparse_value_loss,
    sparse_weights,
    squared_loss,
)


def main(argv: Sequence[str] | None = None, report: Report | None = None) -> list[Result]:
    parser = arguments(__doc__)
    knob(parser, "--temperature", 2.0, "price of leaving the data; units of return")
    parser.add_argument("--exponential", action="store_true", help="EQL in place of SQL")
    parser.add_argument("--max-weight", type=number(), default=100.0)
    parser.add_argument("--polyak", type=number("[]", 1), default=0.005)
    options = side_by_side(parser.parse_args(argv))
    task = load_task(options)

    value = task.build(Value, task.observation_size, options.hidden)
    critics = task.build(twin_critics, task, options.hidden)
    slow_critics = deepcopy(critics).requires_grad_(False)
    policy = task.build(imitation_policy, task, options.hidden)
    parameters = [*value.parameters(), *critics.parameters(), *policy.parameters()]
    optimizer = Adam(parameters, options.lr, fused=True)
    temperature = options.temperature

    def update(batch: TensorDict) -> dict[str, Tensor]:
        observation, action = batch["observation"], batch["action"]

        # 1. V(s) rises until the weights of the data's actions have the mean 1.
        q = ensemble_min(slow_critics(observation, action))
        v = value(observation)
        loss_of_value = exponential_value_loss if options.exponential else sparse_value_loss
        value_loss = (temperature**2 * loss_of_value(v, q, temperature=temperature, reduction="none")).mean(-1)

        # 2. Q(s, a) learns the reward and the V of the next state.
        with torch.no_grad():
            next_v = value(batch["next", "observation"])
        target = bellman_target(batch["next", "reward"], next_v, batch["next", "terminated"], discount=options.discount)
        critic_loss = squared_loss(critics(observation, action), target, reduction="none").mean((0, -1))

        # 3. The policy imitates by these weights.
        if options.exponential:
            weight = awr_weights(q - v, temperature=temperature, max_weight=options.max_weight)
        else:
            weight = sparse_weights(q - v, temperature=temperature).clamp(max=options.max_weight)
        policy_loss = nll_loss(policy.log_prob(observation, action), weight=weight, reduction="none").mean(-1)

        minimize(optimizer, value_loss + critic_loss + policy_loss)  # no parameter is in two terms: one step for all
        polyak_update_(slow_critics, critics, polyak=options.polyak)
        return {"value_loss": value_loss, "critic_loss": critic_loss, "policy_loss": policy_loss}

    name = "eql" if options.exponential else "sql"
    return train(name, task, options, update, policy=policy, critics=critics, report=report)


if __name__ == "__main__":
    main()
