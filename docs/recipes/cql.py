"""Conservative Q-learning, continuous actions: soft actor-critic with critics pushed down where they only guess.

Kumar, Zhou, Tucker and Levine, arXiv:2006.04779, CQL(H). To the Bellman error comes the soft maximum of Q over all
actions minus Q of the data's action. Here the soft maximum is an integral, estimated with actions of three proposals:
uniform ones and the policy's at this state and at the next, each weighted by the density it was drawn from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy

import torch
from common import Report, Result, arguments, minimize, train
from networks import TanhGaussianPolicy, twin_critics
from task import load_task
from tensordict import TensorDict
from torch import Tensor
from torch.optim import Adam

from offline_losses import (
    bellman_target,
    cql_lagrange_losses,
    cql_logsumexp_penalty,
    ensemble_min,
    polyak_update_,
    sac_policy_loss,
    squared_loss,
    temperature_loss,
)


def main(argv: Sequence[str] | None = None, report: Report | None = None) -> Result:
    parser = arguments(__doc__)
    parser.add_argument("--conservative", type=float, default=0.1, help="weight of the penalty")
    parser.add_argument("--temperature", type=float, default=0.1, help="of the soft maximum; units of scaled return")
    parser.add_argument("--lagrange", type=float, metavar="THRESHOLD", help="let a multiplier hold the penalty here")
    parser.add_argument("--proposals", type=int, default=4, help="actions drawn from each of the three proposals")
    parser.add_argument("--polyak", type=float, default=0.005)
    options = parser.parse_args(argv)
    task = load_task(options, discrete_only=False)

    critics = twin_critics(task, options.hidden)
    slow_critics = deepcopy(critics).requires_grad_(False)
    policy = TanhGaussianPolicy(task.observation_size, task.action_size, options.hidden).to(options.device)
    log_temperature = torch.tensor(0.1, device=options.device).log().requires_grad_()
    log_multiplier = torch.zeros((), device=options.device, requires_grad=True)
    critic_optimizer = Adam([*critics.parameters(), log_multiplier], options.lr, fused=True)
    policy_optimizer = Adam([*policy.parameters(), log_temperature], options.lr, fused=True)

    def proposals(observation: Tensor, next_observation: Tensor) -> tuple[Tensor, Tensor]:
        """Actions `[B, 3 N, A]` and the log-density `[B, 3 N]` that each was drawn from."""
        with torch.no_grad():
            here, here_density = policy.sample(_repeat(observation, options.proposals))
            there, there_density = policy.sample(_repeat(next_observation, options.proposals))
        uniform = 2 * torch.rand_like(here) - 1
        uniform_density = torch.full_like(here_density, -task.action_size * math.log(2))  # in [-1, 1]^A
        return torch.cat([uniform, here, there], 1), torch.cat([uniform_density, here_density, there_density], 1)

    def update(batch: TensorDict) -> dict[str, Tensor]:
        observation, action, next_observation = batch["observation"], batch["action"], batch["next", "observation"]

        # 1. Q(s, a) learns the reward and the value of the next state, at an action of the policy.
        with torch.no_grad():
            next_q = ensemble_min(slow_critics(next_observation, policy.sample(next_observation)[0]))
        target = bellman_target(batch["next", "reward"], next_q, batch["next", "terminated"], discount=options.discount)
        q = critics(observation, action)
        critic_loss = squared_loss(q, target)

        # 2. The penalty: down with the soft maximum of Q over all actions, up with Q of the data's action.
        candidates, log_density = proposals(observation, next_observation)
        q_candidates = critics(_repeat(observation, candidates.shape[1]), candidates)
        gap = cql_logsumexp_penalty(q_candidates, q, log_density=log_density, temperature=options.temperature)
        penalty = options.conservative * gap
        if options.lagrange is not None:
            weight, threshold = options.conservative, options.lagrange
            losses = cql_lagrange_losses(gap, log_multiplier, threshold=threshold, penalty_weight=weight)
            penalty = losses.penalty + losses.dual  # the one moves the critics, the other the multiplier
        minimize(critic_optimizer, critic_loss + penalty)

        # 3. The policy climbs Q and keeps its entropy; the temperature keeps the entropy at its target.
        policy_action, log_prob = policy.sample(observation)
        policy_q = ensemble_min(critics(observation, policy_action))
        policy_loss = sac_policy_loss(log_prob, policy_q, temperature=log_temperature.detach().exp())
        entropy_loss = temperature_loss(log_temperature, log_prob, target_entropy=-task.action_size)
        minimize(policy_optimizer, policy_loss + entropy_loss)

        polyak_update_(slow_critics, critics, polyak=options.polyak)
        return {"critic_loss": critic_loss, "gap": gap, "policy_loss": policy_loss}

    def follow(observation: Tensor) -> tuple[Tensor, Tensor]:
        """What this Q values: the policy with its noise, without its entropy."""
        action, log_prob = policy.sample(observation)
        return action, torch.zeros_like(log_prob)

    return train("cql", task, options, update, policy=policy, critics=critics, follow=follow, report=report)


def _repeat(observation: Tensor, count: int) -> Tensor:
    return observation.unsqueeze(1).expand(-1, count, -1)


if __name__ == "__main__":
    main()
