"""HL-Gauss: implicit Q-learning whose critics are classifiers.

Farebrother et al., Stop Regressing: Training Value Functions via Classification for Scalable Deep RL, arXiv:2403.03950.
A critic says how probable each bin of returns is. The Bellman target, still one number, becomes a normal distribution
over the bins, which cross-entropy learns; Q is the mean. Everything else is iql.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from common import Report, Result, arguments, minimize, train
from flags import from_two, number
from networks import CategoricalCritics, Value, imitation_policy
from runs import knob, side_by_side
from task import Task, load_task
from tensordict import TensorDict
from torch import Tensor
from torch.optim import Adam

from offline_losses import (
    awr_weights,
    bellman_target,
    categorical_loss,
    categorical_value,
    discounted_return,
    ensemble_min,
    expectile_loss,
    hl_gauss,
    nll_loss,
    polyak_update_,
)
from offline_losses.adapters.tensordict import on_tensordict


def support_of_returns(task: Task, discount: float, bins: int) -> Tensor:
    """Equally spaced atoms over the returns that followed the data's steps, and a tenth of their span beyond."""
    low, high = on_tensordict(discounted_return)(task.data, discount=discount).aminmax()
    margin = (high - low) / 10
    return torch.linspace(float(low - margin), float(high + margin), bins, device=task.data.device)


def main(argv: Sequence[str] | None = None, report: Report | None = None) -> list[Result]:
    parser = arguments(__doc__)
    parser.add_argument("--bins", type=from_two, default=51)
    parser.add_argument(
        "--sigma-to-bin-ratio", type=number("()"), default=0.75, help="how far a target reaches beside its bin"
    )
    knob(parser, "--expectile", 0.7, "above 0.5: the optimistic side", "()", 1)
    knob(parser, "--temperature", 1.0, "divides the advantage; units of scaled return")
    knob(parser, "--max-weight", 100.0, "of an action")
    parser.add_argument("--polyak", type=number("[]", 1), default=0.005)
    options = side_by_side(parser.parse_args(argv))
    task = load_task(options)

    support = support_of_returns(task, options.discount, options.bins)
    value = task.build(Value, task.observation_size, options.hidden)
    sizes = task.observation_size, task.action_size, options.hidden
    critics = task.build(CategoricalCritics, *sizes, options.bins, task.discrete)
    slow_critics = deepcopy(critics).requires_grad_(False)
    policy = task.build(imitation_policy, task, options.hidden)
    parameters = [*value.parameters(), *critics.parameters(), *policy.parameters()]
    optimizer = Adam(parameters, options.lr, fused=True)

    def update(batch: TensorDict) -> dict[str, Tensor]:
        observation, action = batch["observation"], batch["action"]

        # 1. V(s) rises to the upper expectile of Q(s, a), the mean of a distribution, over the data's actions.
        q = ensemble_min(categorical_value(slow_critics(observation, action), support))
        v = value(observation)
        value_loss = expectile_loss(v, q, expectile=options.expectile, reduction="none").mean(-1)

        # 2. The critics learn to which bin the reward and the V of the next state belong.
        with torch.no_grad():
            next_v = value(batch["next", "observation"])
        target = bellman_target(batch["next", "reward"], next_v, batch["next", "terminated"], discount=options.discount)
        probability = hl_gauss(target, support, sigma_to_bin_ratio=options.sigma_to_bin_ratio)
        critic_loss = categorical_loss(critics(observation, action), probability, reduction="none").mean((0, -1))

        # 3. The policy imitates the actions that are better than V, in proportion to exp(advantage / temperature).
        weight = awr_weights(q - v, temperature=options.temperature, max_weight=options.max_weight)
        policy_loss = nll_loss(policy.log_prob(observation, action), weight=weight, reduction="none").mean(-1)

        minimize(optimizer, value_loss + critic_loss + policy_loss)  # no parameter is in two terms: one step for all
        polyak_update_(slow_critics, critics, polyak=options.polyak)
        return {"value_loss": value_loss, "critic_loss": critic_loss, "policy_loss": policy_loss}

    def q_of(observation: Tensor, action: Tensor) -> Tensor:
        return categorical_value(critics(observation, action), support)

    return train("hl-gauss", task, options, update, policy=policy, critics=q_of, report=report)


if __name__ == "__main__":
    main()
