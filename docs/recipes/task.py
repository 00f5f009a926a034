"""Dataset time: a Minari dataset made ready to learn from, once, in calls over the whole flat data.

Observations and actions become what networks take (`encoding.py`), and rewards are scaled so that the returns of the
data span a fixed range: temperatures and penalty weights, which are in units of return, then mean the same on every
dataset.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from embedded import load, open_dataset
from encoding import Encoding, encoding_of, read_part
from runs import Network, Seeds
from tensordict import TensorDict
from torch import Tensor
from truth import Act

from offline_losses import ObservationStatistics, episode_return, reward_scale
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
    """A policy in the environment's units.

    Attributes:
        scale: of the rewards that a policy which remembers is told.
    """

    policy: Policy
    encoding: Encoding
    scale: float

    def __call__(self, observation: Any) -> Any:
        return self.encoding.to_environment(self.policy.act(self.encoding.observe(observation)))

    def earned(self, reward: Tensor) -> None:
        if isinstance(self.policy, Remembering):
            self.policy.earned(reward * self.scale)


@dataclass
class Task:
    """The data as the networks see it, and the way back to the environment.

    Attributes:
        data: flat TensorDict `[N]` with TorchRL's keys; recipes add columns and select rows.
        probe: for each run a few rows `[R, P]` as they were recorded, on which Q is compared with the truth.
        returns: of the dataset's episodes, as recorded.
        scale: rewards in `data` are the recorded ones times this.
        seeds: of the runs, from which their networks are built.
    """

    dataset: str
    data: TensorDict
    probe: TensorDict
    returns: Tensor
    scale: float
    encoding: Encoding
    seeds: Seeds

    @property
    def discrete(self) -> bool:
        return self.encoding.discrete

    @property
    def observation_size(self) -> int:
        return self.encoding.observation_size

    @property
    def action_size(self) -> int:
        """Dimensions of an action, or the number of actions."""
        return self.encoding.action_size

    def build(self, make: Callable[..., Network], *arguments: Any) -> Network:
        """The networks that `make(*arguments)` returns for each run, as one."""
        return self.seeds.build(make, *arguments)

    def deployed(self, policy: Policy) -> Act:
        return Deployed(policy.begin() if isinstance(policy, Remembering) else policy, self.encoding, self.scale)


def load_task(options: argparse.Namespace, discrete_only: bool | None = None) -> Task:
    """The dataset of the options; with `discrete_only` given, refused unless its actions are of that kind."""
    try:
        data, source = load(options.dataset), open_dataset(options.dataset)
        seen, done = data["observation"], data["action"]
        encoding = encoding_of(read_part(source.observation_space, seen), source.action_space, seen, done)
    except (OSError, ImportError) as error:
        raise SystemExit(str(error)) from error
    except ValueError as error:
        raise SystemExit(f"{options.dataset}: {error}") from error
    if discrete_only is not None and encoding.discrete != discrete_only:
        raise SystemExit(
            f"{options.dataset} has discrete actions: take discrete_cql.py."
            if encoding.discrete
            else f"{options.dataset} has continuous actions: "
            "take cql.py, td3_bc.py, rebrac.py, fql.py, edac.py or sac.py."
        )
    seeds = Seeds(options)
    rows = seeds.each(lambda: torch.randperm(len(data))[: options.probe])
    task = Task(
        dataset=options.dataset,
        data=data,
        probe=data[torch.stack(rows)],
        returns=on_tensordict(episode_return)(data)[data["next", "done"]],
        scale=1.0 if options.raw_rewards else on_tensordict(reward_scale)(data, horizon=options.return_range).item(),
        encoding=encoding,
        seeds=seeds,
    )
    for step in (data, data["next"]):
        step["observation"] = encoding.observe(step["observation"])
    data["action"] = encoding.from_environment(data["action"])
    data["next", "reward"] = data["next", "reward"] * task.scale
    task.data = data.to(options.device)
    encoding.statistics = ObservationStatistics(*(column.to(options.device) for column in encoding.statistics))
    return task
