"""Flow Q-learning: a flow imitates the data, and a policy of one step climbs Q without leaving the flow behind.

Park, Li and Levine, arXiv:2502.02538. The flow learns what the data do, several actions of one state included, and
never hears of Q. The policy carries the same noise in one step: to where the flow carries it, and from there uphill.
So no gradient goes through the steps of the flow, and acting takes one.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from common import Report, Result, arguments, minimize, train
from flags import count, number
from networks import ActionField, OneStepPolicy, twin_critics
from runs import knob, side_by_side
from task import load_task
from tensordict import TensorDict
from torch import Tensor
from torch.optim import Adam

from offline_losses import (
    bellman_target,
    distillation_loss,
    ensemble_mean,
    flow_matching_loss,
    flow_point,
    polyak_update_,
    squared_loss,
)


def main(argv: Sequence[str] | None = None, report: Report | None = None) -> list[Result]:
    parser = arguments(__doc__)
    knob(parser, "--distillation", 10.0, "larger: stay nearer to the flow of the data")
    parser.add_argument("--flow-steps", type=count, default=10, help="Euler steps from noise to action")
    parser.add_argument("--polyak", type=number("[]", 1), default=0.005)
    options = side_by_side(parser.parse_args(argv))
    task = load_task(options, discrete_only=False)

    critics = task.build(twin_critics, task, options.hidden)
    slow_critics = deepcopy(critics).requires_grad_(False)
    sizes = task.observation_size, task.action_size, options.hidden
    velocity, policy = task.build(ActionField, *sizes), task.build(OneStepPolicy, *sizes)
    critic_optimizer = Adam(critics.parameters(), options.lr, fused=True)
    policy_optimizer = Adam([*velocity.parameters(), *policy.parameters()], options.lr, fused=True)

    @torch.no_grad()
    def flow(observation: Tensor, point: Tensor) -> Tensor:
        """Where noise, at time 0, arrives at time 1."""
        for k in range(options.flow_steps):
            time = torch.full_like(point[..., 0], k / options.flow_steps)
            point = point + velocity(observation, point, time) / options.flow_steps
        return point.clamp(-1, 1)

    def update(batch: TensorDict) -> dict[str, Tensor]:
        observation, action, next_observation = batch["observation"], batch["action"], batch["next", "observation"]

        # 1. Q(s, a) learns the reward and the value of the next state, at an action of the one-step policy.
        with torch.no_grad():
            next_action = policy(next_observation, batch["next_noise"]).clamp(-1, 1)
            next_q = ensemble_mean(slow_critics(next_observation, next_action))
        target = bellman_target(batch["next", "reward"], next_q, batch["next", "terminated"], discount=options.discount)
        critic_loss = squared_loss(critics(observation, action), target, reduction="none").mean((0, -1))
        minimize(critic_optimizer, critic_loss)

        # 2. The flow learns to carry noise to the data's actions.
        noise, time = batch["flow_noise"], batch["time"]
        field = velocity(observation, flow_point(noise, action, time), time)
        flow_loss = flow_matching_loss(field, noise, action, reduction="none").mean(-1)

        # 3. The policy lands where the flow does, and climbs Q from there: the distance before the clip, Q after it.
        policy_action = policy(observation, batch["noise"])
        q = ensemble_mean(critics(observation, policy_action.clamp(-1, 1)))
        target, weight = flow(observation, batch["noise"]), options.distillation
        policy_loss = distillation_loss(policy_action, target, q, distillation_weight=weight, reduction="none").mean(-1)
        minimize(policy_optimizer, flow_loss + policy_loss)

        polyak_update_(slow_critics, critics, polyak=options.polyak)
        return {"critic_loss": critic_loss, "flow_loss": flow_loss, "policy_loss": policy_loss}

    one = (task.action_size,)
    noise = {"normal": {"next_noise": one, "noise": one, "flow_noise": one}, "uniform": {"time": ()}}
    return train("fql", task, options, update, policy=policy, critics=critics, **noise, report=report)


if __name__ == "__main__":
    main()
