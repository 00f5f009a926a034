"""Soft actor-critic on fixed data: what goes wrong when nothing holds the policy to the data.

Haarnoja et al., arXiv:1812.05905, unchanged, without new experience. The target asks the critics for actions that the
data never tried, the policy climbs to wherever they err upwards, and no experience corrects them: compare its Q with
what the policy truly earns. With `cql_logsumexp_penalty` added to the critics' loss it becomes `cql.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from common import Report, Result, arguments, minimize, train
from flags import number
from networks import TanhGaussianPolicy, twin_critics
from runs import each_run, side_by_side
from task import load_task
from tensordict import TensorDict
from torch import Tensor
from torch.optim import Adam

from offline_losses import (
    ensemble_min,
    polyak_update_,
    sac_policy_loss,
    soft_bellman_target,
    squared_loss,
    temperature_loss,
)


def main(argv: Sequence[str] | None = None, report: Report | None = None) -> list[Result]:
    parser = arguments(__doc__)
    parser.add_argument("--polyak", type=number("[]", 1), default=0.005)
    options = side_by_side(parser.parse_args(argv))
    task = load_task(options, discrete_only=False)

    critics = task.build(twin_critics, task, options.hidden)
    slow_critics = deepcopy(critics).requires_grad_(False)
    policy = task.build(TanhGaussianPolicy, task.observation_size, task.action_size, options.hidden)
    critic_optimizer = Adam(critics.parameters(), options.lr, fused=True)
    policy_optimizer = Adam(policy.parameters(), options.lr, fused=True)

    def update(batch: TensorDict) -> dict[str, Tensor]:
        observation, action = batch["observation"], batch["action"]
        temperature = policy.log_temperature.detach().exp().unsqueeze(1)  # [R, 1], for a batch [R, B]

        # 1. Q(s, a) learns the reward and the soft value of the next state, at an action of the policy.
        with torch.no_grad():
            next_action, next_log_prob = policy.sample(batch["next", "observation"], batch["next_noise"])
            target = soft_bellman_target(
                batch["next", "reward"],
                ensemble_min(slow_critics(batch["next", "observation"], next_action)),
                next_log_prob,
                batch["next", "terminated"],
                temperature=temperature,
                discount=options.discount,
            )
        critic_loss = squared_loss(critics(observation, action), target, reduction="none").mean((0, -1))
        minimize(critic_optimizer, critic_loss)

        # 2. The policy climbs Q and keeps its entropy; the temperature keeps the entropy at its target.
        policy_action, log_prob = policy.sample(observation, batch["noise"])
        policy_q = ensemble_min(critics(observation, policy_action))
        policy_loss = sac_policy_loss(log_prob, policy_q, temperature=temperature, reduction="none").mean(-1)
        entropy = {"target_entropy": -task.action_size}
        entropy_loss = each_run(temperature_loss, policy.log_temperature, log_prob, **entropy)
        minimize(policy_optimizer, policy_loss + entropy_loss)

        polyak_update_(slow_critics, critics, polyak=options.polyak)
        return {"critic_loss": critic_loss, "policy_loss": policy_loss, "temperature": temperature.squeeze(1)}

    def follow(policy: TanhGaussianPolicy, observation: Tensor) -> tuple[Tensor, Tensor]:
        """What this Q values: the policy with its noise, its entropy counted as reward."""
        noise = torch.randn(*observation.shape[:-1], task.action_size, device=observation.device)
        action, log_prob = policy.sample(observation, noise)
        return action, -policy.log_temperature.detach().exp() * log_prob

    normal = {"next_noise": (task.action_size,), "noise": (task.action_size,)}
    evaluated = {"policy": policy, "critics": critics, "follow": follow}
    return train("sac", task, options, update, **evaluated, normal=normal, report=report)


if __name__ == "__main__":
    main()
