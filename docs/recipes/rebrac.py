"""ReBRAC: TD3+BC whose critics pay for leaving the data too, at the next state, by a weight of their own.

Tarasov et al., arXiv:2305.09836. The policy climbs the smaller critic and pays for its distance to the data's action;
the target pays for the distance of the slow policy's next action to the one that the data took there, if the episode
went on. The paper's deeper networks, layer normalization of the critics and large batches are left out, and so is
TD3's delay: every update moves the critics and then the policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from common import Report, Result, arguments, minimize, train
from flags import number
from networks import DeterministicPolicy, twin_critics
from runs import each_run, knob, side_by_side
from task import load_task
from tensordict import TensorDict
from torch import Tensor
from torch.optim import Adam

from offline_losses import (
    ensemble_min,
    polyak_update_,
    rebrac_policy_loss,
    rebrac_target,
    smoothed_action,
    squared_loss,
)


def main(argv: Sequence[str] | None = None, report: Report | None = None) -> list[Result]:
    parser = arguments(__doc__)
    knob(parser, "--policy-bc", 0.01, "what the policy pays for leaving the data", "[]")
    knob(parser, "--critic-bc", 0.01, "what the critics' target pays for it", "[]")
    parser.add_argument("--noise", type=number("[)"), default=0.2, help="deviation of the noise on the target's action")
    parser.add_argument("--noise-clip", type=number("[]"), default=0.5)
    parser.add_argument("--polyak", type=number("[]", 1), default=0.005)
    options = side_by_side(parser.parse_args(argv))
    task = load_task(options, discrete_only=False)

    critics = task.build(twin_critics, task, options.hidden)
    policy = task.build(DeterministicPolicy, task.observation_size, task.action_size, options.hidden)
    slow_critics, slow_policy = (deepcopy(network).requires_grad_(False) for network in (critics, policy))
    critic_optimizer = Adam(critics.parameters(), options.lr, fused=True)
    policy_optimizer = Adam(policy.parameters(), options.lr, fused=True)

    # Once, before any network: the action of the following row. Behind an end it is another episode's, and not used.
    task.data["next", "action"] = task.data["action"].roll(-1, 0)
    high = torch.ones(task.action_size, device=options.device)

    def noisy(actor: DeterministicPolicy, observation: Tensor, noise: Tensor) -> Tensor:
        """The actor's action with the noise over which the target smooths Q."""
        knobs = {"noise_scale": options.noise, "max_noise": options.noise_clip}
        return smoothed_action(actor.act(observation), noise, -high, high, **knobs)

    def update(batch: TensorDict) -> dict[str, Tensor]:
        observation, action, following = batch["observation"], batch["action"], batch["next"]

        # 1. Q(s, a) learns the reward and the value of the next state, less the price of the next action.
        with torch.no_grad():
            next_action = noisy(slow_policy, following["observation"], batch["noise"])
            target = rebrac_target(
                following["reward"],
                ensemble_min(slow_critics(following["observation"], next_action)),
                next_action,
                following["action"],
                following["terminated"],
                following["done"],
                bc_weight=options.critic_bc,
                discount=options.discount,
            )
        critic_loss = squared_loss(critics(observation, action), target, reduction="none").mean((0, -1))
        minimize(critic_optimizer, critic_loss)

        # 2. The policy climbs the smaller critic and stays near the data's action; the mean of |Q| is that of each run.
        policy_action = policy.act(observation)
        policy_q = ensemble_min(critics(observation, policy_action))
        policy_loss = each_run(rebrac_policy_loss, policy_q, policy_action, action, bc_weight=options.policy_bc)
        minimize(policy_optimizer, policy_loss)

        polyak_update_(slow_critics, critics, polyak=options.polyak)
        polyak_update_(slow_policy, policy, polyak=options.polyak)
        return {"critic_loss": critic_loss, "policy_loss": policy_loss}

    def follow(policy: DeterministicPolicy, observation: Tensor) -> tuple[Tensor, Tensor]:
        """The policy with the target's noise; what Q counts for leaving the data is known on the data's states only."""
        noise = torch.randn(*observation.shape[:-1], task.action_size, device=observation.device)
        return noisy(policy, observation, noise), torch.zeros(len(observation))

    normal, evaluated = {"noise": (task.action_size,)}, {"policy": policy, "critics": critics, "follow": follow}
    return train("rebrac", task, options, update, **evaluated, normal=normal, report=report)


if __name__ == "__main__":
    main()
