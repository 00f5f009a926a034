"""The same updates in the style of one-file implementations: an optimizer for each network, critics one by one.

Everything is plain PyTorch with its defaults, as such code has it; the hyper-parameters are those of the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, TanhTransform, TransformedDistribution
from torch.optim import Adam

from benchmarks.networks import (
    ACTIONS,
    CONSERVATIVE,
    DISCOUNT,
    EXPECTILE,
    LOG_STD,
    LR,
    MAX_WEIGHT,
    NOISE,
    NOISE_CLIP,
    POLYAK,
    PROPOSALS,
    Q_WEIGHT,
    TEMPERATURE,
    Networks,
)

Update = Callable[..., dict[str, Tensor]]


def iql(device: torch.device) -> Update:
    nets = Networks(device)
    q1, q2, slow_q1, slow_q2 = *nets.critics.networks, *nets.slow_critics.networks
    v_optimizer = Adam(nets.value.parameters(), lr=LR)
    q_optimizer = Adam(nets.critics.parameters(), lr=LR)
    policy_optimizer = Adam([*nets.policy.parameters(), nets.log_std], lr=LR)

    def update(
        observation: Tensor, action: Tensor, reward: Tensor, next_observation: Tensor, terminated: Tensor
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            next_v = nets.value(next_observation).squeeze(-1)
            target_q = torch.min(_q(slow_q1, observation, action), _q(slow_q2, observation, action))
        advantage = target_q - nets.value(observation).squeeze(-1)
        v_loss = torch.mean(torch.abs(EXPECTILE - (advantage < 0).float()) * advantage**2)
        _step(v_optimizer, v_loss)

        target = reward + (1.0 - terminated.float()) * DISCOUNT * next_v.detach()
        q_loss = sum(F.mse_loss(_q(q, observation, action), target) for q in (q1, q2)) / 2
        _step(q_optimizer, q_loss)
        _soft_update(nets.slow_critics, nets.critics)

        weight = torch.exp(advantage.detach() / TEMPERATURE).clamp(max=MAX_WEIGHT)
        mean = torch.tanh(nets.policy(observation))
        policy = Normal(mean, torch.exp(nets.log_std.clamp(*LOG_STD)))
        policy_loss = torch.mean(weight * -policy.log_prob(action).sum(-1))
        _step(policy_optimizer, policy_loss)
        return _detached(value=v_loss, critic=q_loss, policy=policy_loss)

    return update


def cql(device: torch.device) -> Update:
    nets = Networks(device, 2 * ACTIONS)
    q1, q2, slow_q1, slow_q2 = *nets.critics.networks, *nets.slow_critics.networks
    optimizers = [Adam(q.parameters(), lr=LR) for q in (q1, q2)]
    policy_optimizer, alpha_optimizer = Adam(nets.policy.parameters(), lr=LR), Adam([nets.log_temperature], lr=LR)

    def act(observation: Tensor, repeat: int | None = None) -> tuple[Tensor, Tensor]:
        if repeat is not None:
            observation = _repeat(observation, repeat)
        mean, log_std = nets.policy(observation).chunk(2, -1)
        normal = Normal(mean, torch.exp(log_std.clamp(*LOG_STD)))
        policy = TransformedDistribution(normal, TanhTransform(cache_size=1))
        action = policy.rsample()
        return action, policy.log_prob(action).sum(-1)

    def update(
        observation: Tensor, action: Tensor, reward: Tensor, next_observation: Tensor, terminated: Tensor
    ) -> dict[str, Tensor]:
        new_action, log_pi = act(observation)
        alpha_loss = -(nets.log_temperature * (log_pi - ACTIONS).detach()).mean()
        _step(alpha_optimizer, alpha_loss)
        alpha = nets.log_temperature.exp().detach()
        q_new = torch.min(_q(q1, observation, new_action), _q(q2, observation, new_action))
        policy_loss = (alpha * log_pi - q_new).mean()

        next_action, _ = act(next_observation)
        next_q = torch.min(_q(slow_q1, next_observation, next_action), _q(slow_q2, next_observation, next_action))
        target = (reward + (1.0 - terminated.float()) * DISCOUNT * next_q).detach()
        random_action = action.new_empty(len(action), PROPOSALS, ACTIONS).uniform_(-1, 1)
        here, here_log_pi = (x.detach() for x in act(observation, PROPOSALS))
        there, there_log_pi = (x.detach() for x in act(next_observation, PROPOSALS))
        random_density = ACTIONS * math.log(0.5)
        repeated = _repeat(observation, PROPOSALS)
        q_losses, gaps = [], []
        for q in (q1, q2):
            predicted = _q(q, observation, action)
            parts = [
                _q(q, repeated, random_action) - random_density,
                _q(q, repeated, there) - there_log_pi,
                _q(q, repeated, here) - here_log_pi,
            ]
            gaps.append((torch.logsumexp(torch.cat(parts, 1), 1) - predicted).mean())
            q_losses.append(F.mse_loss(predicted, target))
        policy_optimizer.zero_grad()
        policy_loss.backward()
        policy_optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad()
        (sum(q_losses) + CONSERVATIVE * sum(gaps)).backward()
        for optimizer in optimizers:
            optimizer.step()
        _soft_update(nets.slow_critics, nets.critics)
        gap = sum(gaps) / 2 - math.log(3 * PROPOSALS)
        return _detached(critic=sum(q_losses) / 2, gap=gap, policy=policy_loss)

    return update


def td3_bc(device: torch.device) -> Update:
    nets = Networks(device)
    q1, q2, slow_q1, slow_q2 = *nets.critics.networks, *nets.slow_critics.networks
    optimizers = [Adam(q.parameters(), lr=LR) for q in (q1, q2)]
    policy_optimizer = Adam(nets.policy.parameters(), lr=LR)

    def update(
        observation: Tensor, action: Tensor, reward: Tensor, next_observation: Tensor, terminated: Tensor
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            noise = (torch.randn_like(action) * NOISE).clamp(-NOISE_CLIP, NOISE_CLIP)
            next_action = (torch.tanh(nets.slow_policy(next_observation)) + noise).clamp(-1, 1)
            next_q = torch.min(_q(slow_q1, next_observation, next_action), _q(slow_q2, next_observation, next_action))
            target = reward + (1.0 - terminated.float()) * DISCOUNT * next_q
        critic_loss = F.mse_loss(_q(q1, observation, action), target) + F.mse_loss(_q(q2, observation, action), target)
        for optimizer in optimizers:
            optimizer.zero_grad()
        critic_loss.backward()
        for optimizer in optimizers:
            optimizer.step()

        policy_action = torch.tanh(nets.policy(observation))
        q = _q(q1, observation, policy_action)
        policy_loss = -Q_WEIGHT / q.abs().mean().detach() * q.mean() + F.mse_loss(policy_action, action)
        _step(policy_optimizer, policy_loss)
        _soft_update(nets.slow_critics, nets.critics)
        _soft_update(nets.slow_policy, nets.policy)
        return _detached(critic=critic_loss / 2, policy=policy_loss)

    return update


def _q(network: nn.Module, observation: Tensor, action: Tensor) -> Tensor:
    return network(torch.cat([observation, action], -1)).squeeze(-1)


def _repeat(observation: Tensor, count: int) -> Tensor:
    return observation.unsqueeze(1).repeat(1, count, 1)


def _step(optimizer: Adam, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _soft_update(target: nn.Module, source: nn.Module) -> None:
    for target_parameter, parameter in zip(target.parameters(), source.parameters(), strict=True):
        target_parameter.data.copy_((1 - POLYAK) * target_parameter.data + POLYAK * parameter.data)


def _detached(**losses: Any) -> dict[str, Tensor]:
    return {name: loss.detach() for name, loss in losses.items()}
