"""The small networks of the recipes: critics and policies, nothing that is special to one algorithm.

Every parameter has an axis of runs first, which is 1 when a network is made; `runs.py` joins those of several runs.
Inputs are then `[R, *batch, .]`; the network of one run takes `[*batch, .]` as well.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from runs import joined
from task import Task
from torch import Tensor, nn
from torch.nn.functional import one_hot

from offline_losses import gaussian_log_prob, tanh_gaussian_log_prob


class Linear(nn.Module):
    """A linear layer for each run, or for each member of each run's ensemble, all in one batched product."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)  # as in nn.Linear
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound).T[None].contiguous())
        self.bias = nn.Parameter(torch.empty(1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.flatten(0, -3), self.bias.flatten(0, -2).unsqueeze(1)
        rows = x.reshape(len(weight), math.prod(x.shape[:-1]) // len(weight), x.shape[-1])
        return torch.baddbmm(bias, rows, weight).view(*x.shape[:-1], weight.shape[-1])


class Embedding(nn.Module):
    """A row of a table for each cell; every run has its own table."""

    def __init__(self, cells: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, cells, hidden))

    def forward(self, cell: Tensor) -> Tensor:
        rows = cell.reshape(len(self.weight), -1, 1)
        return self.weight.take_along_dim(rows, 1).view(*cell.shape, -1)


def mlp(inputs: int, outputs: int, hidden: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(Linear(inputs, hidden), nn.ReLU(), Linear(hidden, hidden), nn.ReLU(), Linear(hidden, outputs))


class Deployable(nn.Module):
    """A policy that remembers the numbers and words it was built from, so that it can be saved and built again."""

    built_from: tuple[Any, ...]

    def __new__(cls, *arguments: Any) -> Deployable:
        made = super().__new__(cls)
        object.__setattr__(made, "built_from", arguments)
        return made


def of_action(q: Tensor, action: Tensor) -> Tensor:
    """The entries `[*batch]` of `[*batch, N]` that belong to the actions `[*batch]`."""
    return q.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def of_runs(parameter: Tensor, batch: Tensor) -> Tensor:
    """A parameter `[R, A]` repeated over a batch `[R, *batch, A]`, or `[*batch, A]` of one run."""
    return parameter.view(-1, *[1] * (batch.dim() - 2), parameter.shape[-1]).expand_as(batch)


class Value(nn.Module):
    """V(s), `[*batch]`."""

    def __init__(self, observation_size: int, hidden: int) -> None:
        super().__init__()
        self.network = mlp(observation_size, 1, hidden)

    def forward(self, observation: Tensor) -> Tensor:
        return self.network(observation).squeeze(-1)


class Ensemble(nn.Module):
    """Several networks of one shape for each run, in one product for each layer: parameters are `[R, E, ...]`."""

    def __init__(self, members: int, inputs: int, outputs: int, hidden: int) -> None:
        super().__init__()
        self.members = members
        self.network = joined([mlp(inputs, outputs, hidden) for _ in range(members)], partial(torch.stack, dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """`[E, R, *batch, outputs]` of `[E, R, *batch, inputs]`."""
        runs = len(self.network[0].weight)
        rows = x.reshape(self.members, runs, -1, x.shape[-1]).transpose(0, 1)
        return self.network(rows).transpose(0, 1).reshape(*x.shape[:-1], -1)


class Critics(nn.Module):
    """Q(s, a) of continuous actions by a few critics, `[E, R, *batch]`."""

    def __init__(self, observation_size: int, action_size: int, hidden: int, critics: int = 2) -> None:
        super().__init__()
        self.networks = Ensemble(critics, observation_size + action_size, 1, hidden)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Of actions `[R, *batch, A]`, or `[E, R, *batch, A]`: for each critic its own."""
        members = self.networks.members
        if action.dim() == observation.dim():
            action = action.expand(members, *action.shape)
        pair = torch.cat([observation.expand(members, *observation.shape), action], -1)
        return self.networks(pair).squeeze(-1)


class DiscreteCritics(nn.Module):
    """Twin Q(s, a) of a finite number of actions, `[2, R, *batch]`."""

    def __init__(self, observation_size: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.networks = Ensemble(2, observation_size, actions, hidden)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        q = self.networks(observation.expand(2, *observation.shape))
        return of_action(q, action.expand(2, *action.shape))


class CategoricalCritics(nn.Module):
    """Twin distributions of Q(s, a) over K bins, logits `[2, R, *batch, K]`; one of finitely many actions goes in as
    0, 1.

    Heads of all bins for all actions would be the larger part of a small network.
    """

    def __init__(self, observation_size: int, action_size: int, hidden: int, bins: int, discrete: bool = False) -> None:
        super().__init__()
        self.actions = action_size if discrete else None
        self.networks = Ensemble(2, observation_size + action_size, bins, hidden)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        action = action if self.actions is None else one_hot(action, self.actions).to(observation)
        pair = torch.cat([observation, action], -1)
        return self.networks(pair.expand(2, *pair.shape))


class QNetwork(Deployable):
    """Q of a finite number of actions, `[*batch, actions]`; acts by the largest."""

    def __init__(self, observation_size: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.network = mlp(observation_size, actions, hidden)

    def forward(self, observation: Tensor) -> Tensor:
        return self.network(observation)

    def act(self, observation: Tensor) -> Tensor:
        return self(observation).argmax(-1)


class QuantileNetwork(QNetwork):
    """Quantiles of the return of a finite number of actions, and as Q their mean."""

    def __init__(self, observation_size: int, actions: int, hidden: int, quantiles: int) -> None:
        super().__init__(observation_size, actions * quantiles, hidden)
        self.count = quantiles

    def forward(self, observation: Tensor) -> Tensor:
        return self.quantiles(observation).mean(-1)

    def quantiles(self, observation: Tensor) -> Tensor:
        """`[*batch, actions, quantiles]`."""
        return self.network(observation).unflatten(-1, (-1, self.count))


class DeterministicPolicy(Deployable):
    """One action inside [-1, 1] for each state."""

    def __init__(self, observation_size: int, action_size: int, hidden: int) -> None:
        super().__init__()
        self.network = mlp(observation_size, action_size, hidden)

    def act(self, observation: Tensor) -> Tensor:
        return self.network(observation).tanh()


class GaussianPolicy(DeterministicPolicy):
    """Mean inside [-1, 1], one deviation for all states: the usual policy of weighted imitation."""

    def __init__(self, observation_size: int, action_size: int, hidden: int) -> None:
        super().__init__(observation_size, action_size, hidden)
        self.log_std = nn.Parameter(torch.zeros(1, action_size))

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        return gaussian_log_prob(self.act(observation), of_runs(self.log_std.clamp(-5, 2), action), action)


class TanhGaussianPolicy(Deployable):
    """The squashed policy of SAC, with a deviation for each state, and the temperature that keeps its entropy."""

    def __init__(self, observation_size: int, action_size: int, hidden: int) -> None:
        super().__init__()
        self.network = mlp(observation_size, 2 * action_size, hidden)
        self.log_temperature = nn.Parameter(torch.full((1,), 0.1).log())

    def act(self, observation: Tensor) -> Tensor:
        return self.network(observation).chunk(2, -1)[0].tanh()

    def sample(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions `[*batch, A]` with gradients to the policy, of normal noise, and their log-densities `[*batch]`."""
        mean, log_std = self.network(observation).chunk(2, -1)
        log_std = log_std.clamp(-5, 2)
        pre_tanh = mean + log_std.exp() * noise
        return pre_tanh.tanh(), tanh_gaussian_log_prob(mean, log_std, pre_tanh=pre_tanh)


class CategoricalPolicy(Deployable):
    """Probabilities of a finite number of actions."""

    def __init__(self, observation_size: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.network = mlp(observation_size, actions, hidden)

    def act(self, observation: Tensor) -> Tensor:
        return self.network(observation).argmax(-1)

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        return of_action(self.network(observation).log_softmax(-1), action)

    def probability(self, observation: Tensor) -> Tensor:
        return self.network(observation).softmax(-1)


class ActionField(nn.Module):
    """What a generative policy says of a noisy action, `[*batch, A]`: a velocity or a noise, at times `[*batch]`.

    With a condition `[*batch]`: 1 or −1, and 0 for none.
    """

    def __init__(self, observation_size: int, action_size: int, hidden: int) -> None:
        super().__init__()
        self.action_size = action_size
        self.network = mlp(observation_size + action_size + 2, action_size, hidden)

    def forward(self, observation: Tensor, point: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        condition = torch.zeros_like(time) if condition is None else condition
        return self.network(torch.cat([observation, point, time.unsqueeze(-1), condition.unsqueeze(-1)], -1))


class SamplingPolicy(Deployable):
    """Acts by drawing noise, from a generator of its own: how often it is evaluated changes nothing of the training."""

    def __init__(self, noise_size: int) -> None:
        super().__init__()
        self.noise_size = noise_size
        self.generator: torch.Generator | None = None

    def act(self, observation: Tensor) -> Tensor:
        self.generator = self.generator or torch.Generator(observation.device).manual_seed(0)
        shape = (*observation.shape[:-1], self.noise_size)
        return self(observation, torch.randn(shape, generator=self.generator, device=observation.device)).clamp(-1, 1)


class FlowPolicy(SamplingPolicy):
    """Draws several actions, to which a flow carries noise in ten steps, and takes the one that it chooses."""

    def __init__(self, observation_size: int, action_size: int, hidden: int, draws: int) -> None:
        super().__init__(draws * action_size)
        self.velocity = ActionField(observation_size, action_size, hidden)

    @torch.no_grad()
    def forward(self, observation: Tensor, noise: Tensor) -> Tensor:
        point = noise.unflatten(-1, (-1, self.velocity.action_size))
        state = observation.unsqueeze(-2).expand(*point.shape[:-1], -1)
        for k in range(10):  # from noise, at time 0, to actions, at time 1
            point = point + self.velocity(state, point, torch.full_like(point[..., 0], k / 10)) / 10
        return self.choose(state, point.clamp(-1, 1))

    def choose(self, observation: Tensor, action: Tensor) -> Tensor:
        """One action `[*batch, A]` of those at each state, `[*batch, N, A]`."""
        raise NotImplementedError


class OneStepPolicy(SamplingPolicy):
    """An action of an observation and noise, not clipped."""

    def __init__(self, observation_size: int, action_size: int, hidden: int) -> None:
        super().__init__(action_size)
        self.network = mlp(observation_size + action_size, action_size, hidden)

    def forward(self, observation: Tensor, noise: Tensor) -> Tensor:
        return self.network(torch.cat([observation, noise], -1))


def twin_critics(task: Task, hidden: int) -> Critics | DiscreteCritics:
    kind = DiscreteCritics if task.discrete else Critics
    return kind(task.observation_size, task.action_size, hidden)


def imitation_policy(task: Task, hidden: int) -> GaussianPolicy | CategoricalPolicy:
    kind = CategoricalPolicy if task.discrete else GaussianPolicy
    return kind(task.observation_size, task.action_size, hidden)
