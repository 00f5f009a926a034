"""Dataset time: a Minari dataset made ready to learn from, once, in calls over the whole flat data.

Observations are normalized, continuous actions lie in [-1, 1], and rewards are scaled so that the returns of the data
span a fixed range: temperatures and penalty weights, which are in units of return, then mean the same on every dataset.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from embedded import load, open_dataset
from gymnasium import spaces
from tensordict import TensorDict
from torch import Tensor
from truth import Act

from offline_losses import (
    ObservationStatistics,
    episode_return,
    normalize_observation,
    observation_statistics,
    reward_scale,
)
from offline_losses.adapters.tensordict import on_tensordict


class Policy(Protocol):
    """What a recipe deploys."""

    def act(self, observation: Tensor) -> Tensor:
        """The mean action, or the most probable one."""
        ...


@runtime_checkable
class Remembering(Policy, Protocol):
    """A policy that looks back on its episodes, which all begin at once, and is told every reward."""

    def begin(self) -> Remembering:
        """The policy, having forgotten the last episodes."""
        ...

    def earned(self, reward: Tensor) -> None:
        """Take note of the scaled rewards `[episodes]` of the last actions."""
        ...


@dataclass
class Deployed:
    """A policy in the environment's units."""

    task: Task
    policy: Policy

    def __call__(self, observation: Tensor) -> Tensor:
        return self.task.to_environment(self.policy.act(self.task.observe(observation)))

    def earned(self, reward: Tensor) -> None:
        if isinstance(self.policy, Remembering):
            self.policy.earned(reward * self.task.scale)


@dataclass
class Task:
    """The data as the networks see it, and the way back to the environment.

    Attributes:
        data: flat TensorDict `[N]` with TorchRL's keys; recipes add columns and select rows.
        probe: a few rows as they were recorded, on which Q is compared with the truth.
        returns: of the dataset's episodes, as recorded.
        scale: rewards in `data` are the recorded ones times this.
        action_size: dimensions of an action, or the number of actions.
    """

    dataset: str
    data: TensorDict
    probe: TensorDict
    returns: Tensor
    scale: float
    discrete: bool
    observation_size: int
    action_size: int
    statistics: ObservationStatistics
    bounds: tuple[Tensor, Tensor]

    def observe(self, observation: Tensor) -> Tensor:
        return normalize_observation(observation.to(self.statistics.mean), *self.statistics)

    def from_environment(self, action: Tensor) -> Tensor:
        low, high = self.bounds
        return action if self.discrete else 2 * (action - low) / (high - low) - 1

    def to_environment(self, action: Tensor) -> Tensor:
        low, high = self.bounds
        return action.cpu() if self.discrete else low + (action.cpu() + 1) / 2 * (high - low)

    def deployed(self, policy: Policy) -> Act:
        return Deployed(self, policy.begin() if isinstance(policy, Remembering) else policy)


def load_task(options: argparse.Namespace, discrete_only: bool | None = None) -> Task:
    """The dataset of the options; with `discrete_only` given, refused unless its actions are of that kind."""
    torch.manual_seed(options.seed)
    data, space = load(options.dataset), open_dataset(options.dataset).action_space
    for step in (data, data["next"]):
        if isinstance(step["observation"], TensorDict):  # dict and tuple observations, side by side
            leaves = sorted(step["observation"].items(True, True), key=lambda leaf: str(leaf[0]))
            step["observation"] = torch.cat([leaf.reshape(len(data), -1) for _, leaf in leaves], -1)
    discrete = isinstance(space, spaces.Discrete)
    if discrete_only is not None and discrete != discrete_only:
        raise SystemExit(
            f"{options.dataset} has discrete actions: take discrete_cql.py."
            if discrete
            else f"{options.dataset} has continuous actions: "
            "take cql.py, td3_bc.py, rebrac.py, fql.py, edac.py or sac.py."
        )
    bounds = (0.0, 1.0) if discrete else (space.low, space.high)
    task = Task(
        dataset=options.dataset,
        data=data,
        probe=data[torch.randperm(len(data))[: options.probe]],
        returns=on_tensordict(episode_return)(data)[data["next", "done"]],
        scale=on_tensordict(reward_scale)(data, horizon=options.return_range).item(),
        discrete=discrete,
        observation_size=data["observation"].shape[-1],
        action_size=int(space.n) if discrete else data["action"].shape[-1],
        statistics=observation_statistics(data["observation"]),
        bounds=(torch.as_tensor(bounds[0]), torch.as_tensor(bounds[1])),
    )
    for step in (data, data["next"]):
        step["observation"] = task.observe(step["observation"])
    data["action"] = task.from_environment(data["action"])
    data["next", "reward"] = data["next", "reward"] * task.scale
    task.data = data.to(options.device)
    task.statistics = ObservationStatistics(*(column.to(options.device) for column in task.statistics))
    return task
