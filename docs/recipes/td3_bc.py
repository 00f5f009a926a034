"""TD3+BC: climb the critic, and pay for the distance to the data's action.

Fujimoto and Gu, arXiv:2106.06860. The critics are those of TD3: their target is the smaller of two slow critics, at the
slow policy's action with a little noise. All that holds the policy to the data is one term of its own loss; the mean of
|Q| makes the two terms comparable. TD3's delay is left out: every update moves the critics and then the policy.
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

from offline_losses import bellman_target, ensemble_min, polyak_update_, squared_loss, td3_bc_loss


def main(argv: Sequence[str] | None = None, report: Report | None = None) -> list[Result]:
    parser = arguments(__doc__)
    knob(parser, "--q-weight", 2.5, "larger: trust the critic more, the data less")
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

    def noisy(actor: DeterministicPolicy, observation: Tensor, noise: Tensor) -> Tensor:
        """The actor's action with the noise over which the target smooths Q."""
        noise = (options.noise * noise).clamp(-options.noise_clip, options.noise_clip)
        return (actor.act(observation) + noise).clamp(-1, 1)

    def update(batch: TensorDict) -> dict[str, Tensor]:
        observation, action, next_observation = batch["observation"], batch["action"], batch["next", "observation"]

        # 1. Q(s, a) learns the reward and the value of the next state, near the action that the slow policy takes.
        with torch.no_grad():
            next_action = noisy(slow_policy, next_observation, batch["noise"])
            next_q = ensemble_min(slow_critics(next_observation, next_action))
        target = bellman_target(batch["next", "reward"], next_q, batch["next", "terminated"], discount=options.discount)
        critic_loss = squared_loss(critics(observation, action), target, reduction="none").mean((0, -1))
        minimize(critic_optimizer, critic_loss)

        # 2. The policy climbs the first critic and stays near the data's action; the mean of |Q| is that of each run.
        policy_action = policy.act(observation)
        policy_q = critics(observation, policy_action)[0]
        policy_loss = each_run(td3_bc_loss, policy_q, policy_action, action, q_weight=options.q_weight)
        minimize(policy_optimizer, policy_loss)

        polyak_update_(slow_critics, critics, polyak=options.polyak)
        polyak_update_(slow_policy, policy, polyak=options.polyak)
        return {"critic_loss": critic_loss, "policy_loss": policy_loss}

    def follow(policy: DeterministicPolicy, observation: Tensor) -> tuple[Tensor, Tensor]:
        """What this Q values: the policy with the target's noise."""
        noise = torch.randn(*observation.shape[:-1], task.action_size, device=observation.device)
        return noisy(policy, observation, noise), torch.zeros(len(observation))

    normal, evaluated = {"noise": (task.action_size,)}, {"policy": policy, "critics": critics, "follow": follow}
    return train("td3_bc", task, options, update, **evaluated, normal=normal, report=report)


if __name__ == "__main__":
    main()
