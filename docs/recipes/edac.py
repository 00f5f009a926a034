"""EDAC: soft actor-critic with the minimum of many critics, whose slopes in the action are kept apart.

An, Moon, Kim and Song, arXiv:2110.01548. Off the data the minimum of an ensemble is low only if its critics disagree
there. Critics fitted to the same targets have nearly the same slopes at the data's actions, and so agree beside them
too: the penalty turns the slopes apart, and fewer critics do. With --diversity 0 it is SAC-N. In one action dimension
slopes have no direction to turn to, and the two are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from common import Report, Result, arguments, minimize, train
from flags import from_two, number
from networks import Critics, TanhGaussianPolicy
from runs import each_run, side_by_side
from task import load_task
from tensordict import TensorDict
from torch import Tensor
from torch.optim import Adam

from offline_losses import (
    diversity_penalty,
    ensemble_min,
    polyak_update_,
    sac_policy_loss,
    soft_bellman_target,
    squared_loss,
    temperature_loss,
)


def main(argv: Sequence[str] | None = None, report: Report | None = None) -> list[Result]:
    parser = arguments(__doc__)
    parser.add_argument("--critics", type=from_two, default=10)
    parser.add_argument("--diversity", type=number("[)"), default=1.0, help="weight of the penalty; 0 is SAC-N")
    parser.add_argument("--polyak", type=number("[]", 1), default=0.005)
    options = side_by_side(parser.parse_args(argv))
    task = load_task(options, discrete_only=False)

    sizes = task.observation_size, task.action_size, options.hidden
    critics = task.build(Critics, *sizes, options.critics)
    slow_critics = deepcopy(critics).requires_grad_(False)
    policy = task.build(TanhGaussianPolicy, *sizes)
    critic_optimizer = Adam(critics.parameters(), options.lr, fused=True)
    policy_optimizer = Adam(policy.parameters(), options.lr, fused=True)

    def update(batch: TensorDict) -> dict[str, Tensor]:
        observation, action, next_observation = batch["observation"], batch["action"], batch["next", "observation"]
        temperature = policy.log_temperature.detach().exp().unsqueeze(1)  # [R, 1], for a batch [R, B]

        # 1. Each Q(s, a) learns the reward and the smallest next value of all critics.
        with torch.no_grad():
            next_action, next_log_prob = policy.sample(next_observation, batch["next_noise"])
            target = soft_bellman_target(
                batch["next", "reward"],
                ensemble_min(slow_critics(next_observation, next_action)),
                next_log_prob,
                batch["next", "terminated"],
                temperature=temperature,
                discount=options.discount,
            )
        copies = action.expand(options.critics, *action.shape).detach().requires_grad_()  # one for each critic
        q = critics(observation, copies)
        # The sum over critics, beside which the paper's weight is.
        critic_loss = squared_loss(q, target, reduction="none").sum(0).mean(-1)

        # 2. The penalty on slopes that point the same way is differentiated once more.
        diversity = torch.zeros_like(critic_loss)
        if options.diversity:
            (slope,) = torch.autograd.grad(q.sum(), copies, create_graph=True)
            diversity = diversity_penalty(slope, reduction="none").mean(-1)
        minimize(critic_optimizer, critic_loss + options.diversity * diversity)

        # 3. The policy climbs the smallest Q and keeps its entropy; the temperature keeps the entropy at its target.
        policy_action, log_prob = policy.sample(observation, batch["noise"])
        policy_q = ensemble_min(critics(observation, policy_action))
        policy_loss = sac_policy_loss(log_prob, policy_q, temperature=temperature, reduction="none").mean(-1)
        entropy = {"target_entropy": -task.action_size}
        entropy_loss = each_run(temperature_loss, policy.log_temperature, log_prob, **entropy)
        minimize(policy_optimizer, policy_loss + entropy_loss)

        polyak_update_(slow_critics, critics, polyak=options.polyak)
        return {"critic_loss": critic_loss, "diversity": diversity, "policy_loss": policy_loss}

    def follow(policy: TanhGaussianPolicy, observation: Tensor) -> tuple[Tensor, Tensor]:
        """What this Q values: the policy with its noise, and its entropy after the first action."""
        noise = torch.randn(*observation.shape[:-1], task.action_size, device=observation.device)
        action, log_prob = policy.sample(observation, noise)
        return action, -policy.log_temperature.detach().exp() * log_prob

    normal = {"next_noise": (task.action_size,), "noise": (task.action_size,)}
    evaluated = {"policy": policy, "critics": critics, "follow": follow}
    return train("edac", task, options, update, **evaluated, normal=normal, report=report)


if __name__ == "__main__":
    main()
