"""One update of IQL, CQL and TD3+BC with the functions of the library, and what else does the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Adam

import offline_losses as ol
from benchmarks import corl, networks, peers
from benchmarks.networks import (
    ACTIONS,
    BATCH,
    CALLS,
    EXACT,
    HIDDEN,
    LOG_STD,
    LR,
    NOISY,
    OBSERVATIONS,
    PROPOSALS,
    ROUNDED,
    TF32,
    Networks,
    fixed_batch,
)
from benchmarks.timing import Maker, Product, Variant, Variants, Workload, passes, product_floor
from offline_losses import compile_update

Metrics: TypeAlias = dict[str, Tensor]
Update: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Metrics]


def workloads(device: torch.device, with_packages: bool = False) -> Iterator[Workload]:
    """Each update in single precision, and on a card also with the products that its tensor cores make of that."""
    updates = {"IQL": (iql, corl.iql, EXACT), "CQL": (cql, corl.cql, NOISY), "TD3+BC": (td3_bc, corl.td3_bc, NOISY)}
    precisions = {f"batch {BATCH}": "highest"}
    if device.type == "cuda":
        precisions[TF32] = "high"
    for (name, (ours, usual, tolerance)), (shape, precision) in product(updates.items(), precisions.items()):

        def variants(
            device: torch.device,
            name: str = name,
            ours: Callable[[Networks], Update] = ours,
            usual: Callable[[torch.device], Update] = usual,
            tolerance: float = max(tolerance, ROUNDED if precision == "high" else 0),
        ) -> Variants:
            def eager(device: torch.device) -> Update:
                return ours(Networks(device, policy_outputs(name)))

            makers = {"eager": eager, "compiled": lambda device: compile_update(eager(device)), "corl": usual}
            made = {key: _maker(make, device, tolerance) for key, make in makers.items()}
            if with_packages:
                made |= peers.of_update(name, device, tolerance)
            return made | {"floor": lambda: product_floor(products(name), device)}

        yield Workload("update", name, shape, "update", BATCH, variants, precision)


def iql(nets: Networks) -> Update:
    """Three losses without a common parameter: one backward pass and one step for all."""
    optimizer = _adam([*nets.value.parameters(), *nets.critics.parameters(), *nets.policy.parameters(), nets.log_std])

    def update(
        observation: Tensor, action: Tensor, reward: Tensor, next_observation: Tensor, terminated: Tensor
    ) -> Metrics:
        value = nets.value(observation).squeeze(-1)
        with torch.no_grad():
            slow_q = ol.ensemble_min(nets.slow_critics(observation, action))
            next_value = nets.value(next_observation).squeeze(-1)
        target = ol.bellman_target(reward, next_value, terminated, discount=networks.DISCOUNT)
        weight = ol.awr_weights(slow_q - value, temperature=networks.TEMPERATURE, max_weight=networks.MAX_WEIGHT)
        log_std = nets.log_std.clamp(*LOG_STD).expand_as(action)
        log_prob = ol.gaussian_log_prob(nets.policy(observation).tanh(), log_std, action)
        value_loss = ol.expectile_loss(value, slow_q, expectile=networks.EXPECTILE)
        critic_loss = ol.squared_loss(nets.critics(observation, action), target)
        policy_loss = ol.nll_loss(log_prob, weight=weight)
        _minimize(optimizer, value_loss + critic_loss + policy_loss, nets.runs)
        ol.polyak_update_(nets.slow_critics, nets.critics, polyak=networks.POLYAK)
        return _detached(value=value_loss, critic=critic_loss, policy=policy_loss)

    return update


def cql(nets: Networks) -> Update:
    """The policy's network runs once for each state, however many actions are drawn there."""
    critic_optimizer = _adam([*nets.critics.parameters()])
    policy_optimizer = _adam([*nets.policy.parameters(), nets.log_temperature])

    def update(
        observation: Tensor, action: Tensor, reward: Tensor, next_observation: Tensor, terminated: Tensor
    ) -> Metrics:
        mean, log_std = _squashed(nets.policy(observation))
        with torch.no_grad():
            next_mean, next_log_std = _squashed(nets.policy(next_observation))
            next_q = ol.ensemble_min(nets.slow_critics(next_observation, _draw(next_mean, next_log_std)[0]))
            here, here_density = _draw(_repeat(mean, PROPOSALS), _repeat(log_std, PROPOSALS))
            there, there_density = _draw(_repeat(next_mean, PROPOSALS), _repeat(next_log_std, PROPOSALS))
            uniform = 2 * torch.rand_like(here) - 1
            uniform_density = torch.full_like(here_density, -ACTIONS * math.log(2))
            candidates = torch.cat([uniform, here, there], 1)
            log_density = torch.cat([uniform_density, here_density, there_density], 1)
        q = nets.critics(observation, action)
        q_candidates = nets.critics(_repeat(observation, 3 * PROPOSALS), candidates)
        target = ol.bellman_target(reward, next_q, terminated, discount=networks.DISCOUNT)
        critic_loss = ol.squared_loss(q, target)
        gap = ol.cql_logsumexp_penalty(q_candidates, q, log_density=log_density)
        _minimize(critic_optimizer, critic_loss + networks.CONSERVATIVE * gap)

        policy_action, log_prob = _draw(mean, log_std)
        policy_q = ol.ensemble_min(nets.critics(observation, policy_action, frozen=True))
        policy_loss = ol.sac_policy_loss(log_prob, policy_q, temperature=nets.log_temperature.detach().exp())
        dual_loss = ol.temperature_loss(nets.log_temperature, log_prob, target_entropy=-ACTIONS)
        _minimize(policy_optimizer, policy_loss + dual_loss)
        ol.polyak_update_(nets.slow_critics, nets.critics, polyak=networks.POLYAK)
        return _detached(critic=critic_loss, gap=gap, policy=policy_loss)

    return update


def td3_bc(nets: Networks) -> Update:
    """Critics, then the policy, in every update; the mean of |Q| is that of each run."""
    critic_optimizer, policy_optimizer = _adam([*nets.critics.parameters()]), _adam([*nets.policy.parameters()])

    def update(
        observation: Tensor, action: Tensor, reward: Tensor, next_observation: Tensor, terminated: Tensor
    ) -> Metrics:
        with torch.no_grad():
            noise = (networks.NOISE * torch.randn_like(action)).clamp(-networks.NOISE_CLIP, networks.NOISE_CLIP)
            next_action = (nets.slow_policy(next_observation).tanh() + noise).clamp(-1, 1)
            next_q = ol.ensemble_min(nets.slow_critics(next_observation, next_action))
        target = ol.bellman_target(reward, next_q, terminated, discount=networks.DISCOUNT)
        critic_loss = ol.squared_loss(nets.critics(observation, action), target)
        _minimize(critic_optimizer, critic_loss, nets.runs)

        policy_action = nets.policy(observation).tanh()
        policy_q = nets.critics.first(observation, policy_action, frozen=True)
        size = policy_q.abs().mean(-1, keepdim=True) if nets.runs > 1 else None
        policy_loss = ol.td3_bc_loss(policy_q, policy_action, action, q_weight=networks.Q_WEIGHT, normalizer=size)
        _minimize(policy_optimizer, policy_loss, nets.runs)
        ol.polyak_update_(nets.slow_critics, nets.critics, polyak=networks.POLYAK)
        ol.polyak_update_(nets.slow_policy, nets.policy, polyak=networks.POLYAK)
        return _detached(critic=critic_loss, policy=policy_loss)

    return update


def products(name: str, hidden: int = HIDDEN) -> list[Product]:
    """The matrix products of an update, if each network runs as often as the algorithm needs and no more."""
    q, v = (OBSERVATIONS + ACTIONS, hidden, hidden, 1), (OBSERVATIONS, hidden, hidden, 1)
    policy = OBSERVATIONS, hidden, hidden, policy_outputs(name)
    bootstrap = [*passes(BATCH, q), *passes(BATCH, q), *passes(BATCH, q, weights=True), *passes(BATCH, q, weights=True)]
    trained = [*bootstrap, *passes(BATCH, policy, weights=True)]
    if name == "IQL":
        return [*trained, *passes(BATCH, v, weights=True), *passes(BATCH, v)]
    climbed, next_policy = list(passes(BATCH, q, inputs=True)), list(passes(BATCH, policy))
    if name == "TD3+BC":
        return [*trained, *climbed, *next_policy]
    candidates = list(passes(3 * PROPOSALS * BATCH, q, weights=True))
    return [*trained, *climbed, *climbed, *next_policy, *candidates, *candidates]


def policy_outputs(name: str) -> int:
    """A mean for each dimension of the action, and of CQL a deviation."""
    return 2 * ACTIONS if name == "CQL" else ACTIONS


def _maker(make: Callable[[torch.device], Update], device: torch.device, tolerance: float) -> Maker:
    def variant() -> Variant:
        update, batch = make(device), fixed_batch(device)
        return Variant(lambda: update(*batch), tolerance=tolerance, calls=CALLS)

    return variant


def _adam(parameters: list[nn.Parameter]) -> Adam:
    return Adam(parameters, LR, fused=True, capturable=parameters[0].is_cuda)


def _minimize(optimizer: Adam, loss: Tensor, runs: int = 1) -> None:
    """The loss is a mean over runs too, each of which shall step as it does alone."""
    optimizer.zero_grad()
    (loss if runs == 1 else runs * loss).backward()
    optimizer.step()


def _detached(**losses: Tensor) -> Metrics:
    return {name: loss.detach() for name, loss in losses.items()}


def _repeat(x: Tensor, count: int) -> Tensor:
    return x.unsqueeze(1).expand(-1, count, -1)


def _squashed(output: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and logarithm of the deviation, before the tanh."""
    mean, log_std = output.chunk(2, -1)
    return mean, log_std.clamp(*LOG_STD)


def _draw(mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
    pre_tanh = mean + log_std.exp() * torch.randn_like(mean)
    return pre_tanh.tanh(), ol.tanh_gaussian_log_prob(mean, log_std, pre_tanh=pre_tanh)
