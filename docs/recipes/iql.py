"""Implicit Q-learning: an optimistic value from the data's own actions, never a maximum over unseen ones.

Kostrikov, Nair and Levine, arXiv:2110.06169. Where Q-learning maximizes Q over all actions, and so over its errors,
IQL regresses V(s) to the upper expectile of Q(s, a) over the actions in the data; Q then bootstraps from V, and the
policy imitates the actions whose Q is above V.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from common import Report, Result, arguments, minimize, train
from flags import number
from networks import Value, imitation_policy, twin_critics
from processes import across_processes
from runs import knob, side_by_side
from task import load_task
from tensordict import TensorDict
from torch import Tensor
from torch.optim import Adam

from offline_losses import (
    awr_weights,
    bellman_target,
    ensemble_min,
    expectile_loss,
    nll_loss,
    polyak_update_,
    squared_loss,
)


def main(argv: Sequence[str] | None = None, report: Report | None = None) -> list[Result]:
    parser = arguments(__doc__)
    knob(parser, "--expectile", 0.7, "above 0.5: the optimistic side", "()", 1)
    knob(parser, "--temperature", 1.0, "divides the advantage; units of scaled return")
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

    def losses(batch: TensorDict) -> dict[str, Tensor]:
        """Means over the batch, for each run."""
        observation, action = batch["observation"], batch["action"]

        # 1. V(s) rises to the upper expectile of Q(s, a) over the data's actions.
        q = ensemble_min(slow_critics(observation, action))
        v = value(observation)
        value_loss = expectile_loss(v, q, expectile=options.expectile, reduction="none").mean(-1)

        # 2. Q(s, a) learns the reward and the V of the next state.
        with torch.no_grad():
            next_v = value(batch["next", "observation"])
        target = bellman_target(batch["next", "reward"], next_v, batch["next", "terminated"], discount=options.discount)
        critic_loss = squared_loss(critics(observation, action), target, reduction="none").mean((0, -1))

        # 3. The policy imitates the actions that are better than V, in proportion to exp(advantage / temperature).
        weight = awr_weights(q - v, temperature=options.temperature, max_weight=options.max_weight)
        policy_loss = nll_loss(policy.log_prob(observation, action), weight=weight, reduction="none").mean(-1)

        return {"value_loss": value_loss, "critic_loss": critic_loss, "policy_loss": policy_loss}

    among_all = across_processes(losses, value, critics, policy)

    def update(batch: TensorDict) -> dict[str, Tensor]:
        terms = among_all(batch)
        minimize(optimizer, sum(terms.values()))  # no parameter is in two terms: one step for all
        polyak_update_(slow_critics, critics, polyak=options.polyak)
        return terms

    return train("iql", task, options, update, policy=policy, critics=critics, report=report)


if __name__ == "__main__":
    main()
