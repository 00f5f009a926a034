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
from flags import count, number, real
from networks import TanhGaussianPolicy, twin_critics
from runs import each_run, side_by_side
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


def main(argv: Sequence[str] | None = None, report: Report | None = None) -> list[Result]:
    parser = arguments(__doc__)
    parser.add_argument("--conservative", type=number("[)"), default=0.1, help="weight of the penalty")
    parser.add_argument(
        "--temperature", type=number("()"), default=0.1, help="of the soft maximum; units of scaled return"
    )
    parser.add_argument("--lagrange", type=real, metavar="THRESHOLD", help="let a multiplier hold the penalty here")
    parser.add_argument("--proposals", type=count, default=4, help="actions drawn from each of the three proposals")
    parser.add_argument("--polyak", type=number("[]", 1), default=0.005)
    options = side_by_side(parser.parse_args(argv))
    task = load_task(options, discrete_only=False)

    critics = task.build(twin_critics, task, options.hidden)
    slow_critics = deepcopy(critics).requires_grad_(False)
    policy = task.build(TanhGaussianPolicy, task.observation_size, task.action_size, options.hidden)
    log_multiplier = torch.zeros(len(options.runs), device=options.device, requires_grad=True)
    critic_optimizer = Adam([*critics.parameters(), log_multiplier], options.lr, fused=True)
    policy_optimizer = Adam(policy.parameters(), options.lr, fused=True)

    def proposals(batch: TensorDict) -> tuple[Tensor, Tensor]:
        """Actions `[R, B, 3 N, A]` and the log-density `[R, B, 3 N]` that each was drawn from."""
        with torch.no_grad():
            here, here_density = policy.sample(_repeat(batch["observation"], options.proposals), batch["here"])
            there, there_density = policy.sample(
                _repeat(batch["next", "observation"], options.proposals), batch["there"]
            )
        uniform_density = torch.full_like(here_density, -task.action_size * math.log(2))  # in [-1, 1]^A
        density = torch.cat([uniform_density, here_density, there_density], -1)
        return torch.cat([2 * batch["uniform"] - 1, here, there], -2), density

    def update(batch: TensorDict) -> dict[str, Tensor]:
        observation, action, next_observation = batch["observation"], batch["action"], batch["next", "observation"]

        # 1. Q(s, a) learns the reward and the value of the next state, at an action of the policy.
        with torch.no_grad():
            next_q = ensemble_min(
                slow_critics(next_observation, policy.sample(next_observation, batch["next_noise"])[0])
            )
        target = bellman_target(batch["next", "reward"], next_q, batch["next", "terminated"], discount=options.discount)
        q = critics(observation, action)
        critic_loss = squared_loss(q, target, reduction="none").mean((0, -1))

        # 2. The penalty: down with the soft maximum of Q over all actions, up with Q of the data's action.
        candidates, log_density = proposals(batch)
        q_candidates = critics(_repeat(observation, candidates.shape[-2]), candidates)
        knobs = {"log_density": log_density, "temperature": options.temperature}
        gap = cql_logsumexp_penalty(q_candidates, q, **knobs, reduction="none").mean((0, -1))
        penalty = options.conservative * gap
        if options.lagrange is not None:
            weight, threshold = options.conservative, options.lagrange
            knobs = {"threshold": threshold, "penalty_weight": weight}
            losses = each_run(cql_lagrange_losses, gap, log_multiplier, **knobs)
            penalty = losses.penalty + losses.dual  # the one moves the critics, the other the multiplier
        minimize(critic_optimizer, critic_loss + penalty)

        # 3. The policy climbs Q and keeps its entropy; the temperature keeps the entropy at its target.
        policy_action, log_prob = policy.sample(observation, batch["noise"])
        policy_q = ensemble_min(critics(observation, policy_action))
        temperature = policy.log_temperature.detach().exp().unsqueeze(1)  # [R, 1], for a batch [R, B]
        policy_loss = sac_policy_loss(log_prob, policy_q, temperature=temperature, reduction="none").mean(-1)
        entropy = {"target_entropy": -task.action_size}
        entropy_loss = each_run(temperature_loss, policy.log_temperature, log_prob, **entropy)
        minimize(policy_optimizer, policy_loss + entropy_loss)

        polyak_update_(slow_critics, critics, polyak=options.polyak)
        return {"critic_loss": critic_loss, "gap": gap, "policy_loss": policy_loss}

    def follow(policy: TanhGaussianPolicy, observation: Tensor) -> tuple[Tensor, Tensor]:
        """What this Q values: the policy with its noise, without its entropy."""
        noise = torch.randn(*observation.shape[:-1], task.action_size, device=observation.device)
        action, log_prob = policy.sample(observation, noise)
        return action, torch.zeros_like(log_prob)

    one, many = (task.action_size,), (options.proposals, task.action_size)
    noise = {"normal": {"next_noise": one, "noise": one, "here": many, "there": many}, "uniform": {"uniform": many}}
    evaluated = {"policy": policy, "critics": critics, "follow": follow}
    return train("cql", task, options, update, **evaluated, **noise, report=report)


def _repeat(observation: Tensor, count: int) -> Tensor:
    return observation.unsqueeze(-2).expand(*observation.shape[:-1], count, -1)


if __name__ == "__main__":
    main()
