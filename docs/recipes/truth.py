"""What a policy is really worth: its return from the start, and from the states and actions of the data.

Q(s, a) claims what follows when `a` is taken in `s` and the policy acts from then on. That claim can be checked: put
the environment into a state of the data, take the data's action, follow the policy, and discount what it earns. No time
limit cuts that short, because Q, which bootstraps where an episode is truncated, knows of none either: the run goes on
until the discount has made the rest negligible. The clinical world is solved exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from embedded import evaluate, open_dataset
from sepsis import DEATH, SURVIVAL, Floats, IcuSepsis
from torch import Tensor

if TYPE_CHECKING:
    from saved import SavedPolicy

Act = Callable[[Tensor], Tensor]  # observations [B, D] of the environment, float32, to its actions
Follow = Callable[[Tensor], tuple[Tensor, Tensor]]  # likewise, and what Q counts on top of the reward for them

SEPSIS = "icu-sepsis/"
NEGLIGIBLE = 1e-3  # the discount of the first reward that is left out


def start_return(dataset_id: str, act: Act, episodes: int, seed: int) -> tuple[float, float]:
    """Mean return of an episode and its standard error: 0 in the clinical world, where the mean is exact; NaN without
    an environment."""
    if dataset_id.startswith(SEPSIS):
        return clinical_world().survival(greedy_table(act)), 0.0
    if open_dataset(dataset_id).env_spec is None:
        return math.nan, math.nan
    returns = evaluate(dataset_id, act, episodes, seed)
    return float(returns.mean()), float(returns.std(ddof=min(1, episodes - 1)) / math.sqrt(episodes))


def true_return(
    dataset_id: str, observation: Tensor, action: Tensor, follow: Follow, discount: float
) -> npt.NDArray[np.float64] | None:
    """Discounted return of taking `action` [B, ...] in `observation` [B, D] and following the policy for ever after.

    None where the environment cannot be put into a state that is given by its observation.
    """
    if dataset_id.startswith(SEPSIS):
        world = clinical_world()
        states = torch.cdist(observation, torch.from_numpy(world.features[:DEATH])).argmin(1).numpy()
        return discounted_survival(greedy_table(lambda rows: follow(rows)[0]), discount)[states, action.numpy()]
    spec = open_dataset(dataset_id).env_spec
    if spec is None or spec.id not in PLACE:
        return None
    worlds = [gym.make(spec.id).unwrapped for _ in observation]
    for world, row in zip(worlds, observation.numpy(), strict=True):
        world.reset(seed=0)
        PLACE[spec.id](world, row)
    total, running = np.zeros(len(worlds)), np.arange(len(worlds))
    now, extra, following = action.numpy(), np.zeros(len(worlds)), observation.numpy()
    for step in range(math.ceil(math.log(NEGLIGIBLE) / math.log(discount))):
        if step:
            with torch.no_grad():
                now, extra = (column.numpy() for column in follow(torch.from_numpy(following)))
        outcomes = [worlds[i].step(a) for i, a in zip(running, now, strict=True)]
        total[running] += discount**step * (np.array([float(outcome[1]) for outcome in outcomes]) + extra)
        going = np.array([not outcome[2] for outcome in outcomes])
        running = running[going]
        if not len(running):
            break
        following = np.stack([outcome[0] for outcome in outcomes])[going]
    return total


def sampled_survival(probability: Act) -> float:
    """Survival under a policy that draws its actions from `probability` [B, actions], exactly."""
    return clinical_world().survival(probability_table(probability))


def true_value(saved: SavedPolicy, dataset_id: str, first: Tensor, chosen: Act, discount: float) -> float | None:
    """Discounted return of a saved policy from the first observations of episodes; None where no environment tells.

    `chosen` says its probabilities of all actions, or its continuous actions, for what its encoding makes of these.
    """
    if dataset_id.startswith(SEPSIS):
        world, table = clinical_world(), probability_table(lambda rows: chosen(saved.encoding.observe(rows)))
        q = discounted_survival(table, discount)
        return float(world.initial[:DEATH] @ (table[:DEATH] * q).sum(1))

    def follow(rows: Tensor) -> tuple[Tensor, Tensor]:
        action = chosen(saved.encoding.observe(rows))
        action = action.multinomial(1).squeeze(1) if saved.encoding.discrete else action
        return saved.encoding.to_environment(action), torch.zeros(len(rows))

    with torch.no_grad():
        true = None if discount == 1 else true_return(dataset_id, first, follow(first)[0], follow, discount)
    return None if true is None else float(true.mean())


@cache
def clinical_world() -> IcuSepsis:
    return IcuSepsis()


def probability_table(probability: Act) -> Floats:
    """A policy that draws its actions as a table [states, actions] of the clinical world."""
    world = clinical_world()
    table = np.zeros_like(world.clinicians)
    with torch.no_grad():
        table[:DEATH] = probability(torch.from_numpy(world.features[:DEATH])).cpu().double().numpy()
    return table / np.maximum(table.sum(1, keepdims=True), 1e-12)


def greedy_table(act: Act) -> Floats:
    """The policy as a table [states, actions] of the clinical world."""
    world = clinical_world()
    table = np.zeros_like(world.clinicians)
    with torch.no_grad():
        table[np.arange(DEATH), act(torch.from_numpy(world.features[:DEATH])).numpy()] = 1.0
    return table


def discounted_survival(policy: Floats, discount: float) -> Floats:
    """Q [states under treatment, actions] of a policy of the clinical world, exactly: v = r_π + γ P_π v."""
    world = clinical_world()
    now, onward = world.transition[:DEATH, :, SURVIVAL], world.transition[:DEATH, :, :DEATH]
    policy = policy[:DEATH]
    matrix = np.eye(DEATH) - discount * np.einsum("sa,sat->st", policy, onward)
    return now + discount * onward @ np.linalg.solve(matrix, (policy * now).sum(1))


def _place_pendulum(world: gym.Env, observation: npt.NDArray[np.float32]) -> None:
    world.state = np.array([np.arctan2(observation[1], observation[0]), observation[2]])


def _place_cart(world: gym.Env, observation: npt.NDArray[np.float32]) -> None:
    world.state = observation.astype(np.float64)


PLACE = {"Pendulum-v1": _place_pendulum, "CartPole-v1": _place_cart}
