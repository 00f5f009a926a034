"""Extreme Q-learning: IQL whose value is a soft maximum, by Gumbel regression.

Garg, Hejna, Geist and Ermon, arXiv:2301.02328. V(s) is fitted to Q(s, a) over the data's actions with a loss whose
minimizer is T log mean exp(Q / T), as long as no residual there exceeds max_exponent temperatures: between their mean,
at a high temperature, and the best of them, at a low one. The policy imitates with the weights exp((Q - V) / T) of the
same temperature: it is the policy that this V is the value of.
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
    gumbel_loss,
    nll_loss,
    polyak_update_,
    squared_loss,
)


def main(argv: Sequence[str] | None = None, report: Report | None = None) -> list[Result]:
    parser = arguments(__doc__)
    knob(parser, "--temperature", 2.0, "of the soft maximum; units of scaled return")
    knob(parser, "--max-exponent", 7.0, "where the exponential becomes its tangent")
    knob(parser, "--max-weight", 100.0, "of an action")
    parser.add_argument("--polyak", type=number("[]", 1), default=0.005)
    options = side_by_side(parser.parse_args(argv))
    task = load_task(options)

    value = task.build(Value, task.observation_size, options.hidden)
    critics = task.build(twin_critics, task, options.hidden)
    slow_critics = deepcopy(critics).requires_grad_(False)
    policy = task.build(imitation_policy, task, options.hidden)
    parameters = [*value.parameters(), *critics.parameters(), *policy.parameters()]
    optimizer = Adam(parameters, options.lr, fused=True)

    def update(batch: TensorDict) -> dict[str, Tensor]:
        observation, action = batch["observation"], batch["action"]

        # 1. V(s) rises to the soft maximum of Q(s, a) over the data's actions. The loss has no unit: times T² it
        #    is half a squared loss near its minimum, of the scale of the critic's.
        q = ensemble_min(slow_critics(observation, action))
        v = value(observation)
        knobs = {"temperature": options.temperature, "max_exponent": options.max_exponent}
        value_loss = (options.temperature**2 * gumbel_loss(v, q, **knobs, reduction="none")).mean(-1)

        # 2. Q(s, a) learns the reward and the V of the next state.
        with torch.no_grad():
            next_v = value(batch["next", "observation"])
        target = bellman_target(batch["next", "reward"], next_v, batch["next", "terminated"], discount=options.discount)
        critic_loss = squared_loss(critics(observation, action), target, reduction="none").mean((0, -1))

        # 3. The policy imitates the data's actions, each by exp((Q - V) / T).
        weight = awr_weights(q - v, temperature=options.temperature, max_weight=options.max_weight)
        policy_loss = nll_loss(policy.log_prob(observation, action), weight=weight, reduction="none").mean(-1)

        minimize(optimizer, value_loss + critic_loss + policy_loss)  # no parameter is in two terms: one step for all
        polyak_update_(slow_critics, critics, polyak=options.polyak)
        return {"value_loss": value_loss, "critic_loss": critic_loss, "policy_loss": policy_loss}

    return train("xql", task, options, update, policy=policy, critics=critics, report=report)


if __name__ == "__main__":
    main()
