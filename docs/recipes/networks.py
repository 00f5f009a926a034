"""The small networks of the recipes: critics and policies, nothing that is special to one algorithm."""

from __future__ import annotations

from typing import Any

import torch
from task import Task
from torch import Tensor, nn
from torch.nn.functional import one_hot

from offline_losses import gaussian_log_prob, tanh_gaussian_log_prob


def mlp(inputs: int, outputs: int, hidden: int) -> nn.Sequential:
    """Two hidden layers."""
    layers = [nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)]
    return nn.Sequential(*layers)


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


class Value(nn.Module):
    """V(s), `[*batch]`."""

    def __init__(self, observation_size: int, hidden: int) -> None:
        super().__init__()
        self.network = mlp(observation_size, 1, hidden)

    def forward(self, observation: Tensor) -> Tensor:
        return self.network(observation).squeeze(-1)


class Critics(nn.Module):
    """Twin Q(s, a) of continuous actions, `[2, *batch]`."""

    def __init__(self, observation_size: int, action_size: int, hidden: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(mlp(observation_size + action_size, 1, hidden) for _ in range(2))

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        pair = torch.cat([observation, action], -1)
        return torch.stack([network(pair).squeeze(-1) for network in self.networks])


class ManyCritics(nn.Module):
    """Q(s, a) of continuous actions by many critics, `[E, *batch]`: the layers of all in one product each."""

    def __init__(self, observation_size: int, action_size: int, hidden: int, critics: int) -> None:
        super().__init__()
        networks = [mlp(observation_size + action_size, 1, hidden) for _ in range(critics)]
        layers = [[layer for layer in network if isinstance(layer, nn.Linear)] for network in networks]
        of_all = list(zip(*layers, strict=True))
        self.weights = nn.ParameterList(torch.stack([layer.weight.T.detach() for layer in row]) for row in of_all)
        self.biases = nn.ParameterList(torch.stack([layer.bias.detach()[None] for layer in row]) for row in of_all)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """`[E, B]` of observations and actions `[B, .]`, or of actions `[E, B, A]`, for each critic its own."""
        critics = len(self.weights[0])
        x = torch.cat([each.expand(critics, *each.shape[-2:]) for each in (observation, action)], -1)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = torch.baddbmm(bias, x, weight)
            x = x.relu() if weight is not self.weights[-1] else x
        return x.squeeze(-1)


class DiscreteCritics(nn.Module):
    """Twin Q(s, a) of a finite number of actions, `[2, *batch]`."""

    def __init__(self, observation_size: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(mlp(observation_size, actions, hidden) for _ in range(2))

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        return torch.stack([of_action(network(observation), action) for network in self.networks])


class CategoricalCritics(nn.Module):
    """Twin distributions of Q(s, a) over K bins, logits `[2, *batch, K]`; one of finitely many actions goes in as 0, 1.

    Heads of all bins for all actions would be the larger part of a small network.
    """

    def __init__(self, observation_size: int, action_size: int, hidden: int, bins: int, discrete: bool = False) -> None:
        super().__init__()
        self.actions = action_size if discrete else None
        self.networks = nn.ModuleList(mlp(observation_size + action_size, bins, hidden) for _ in range(2))

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        action = action if self.actions is None else one_hot(action, self.actions).to(observation)
        pair = torch.cat([observation, action], -1)
        return torch.stack([network(pair) for network in self.networks])


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
        self.log_std = nn.Parameter(torch.zeros(action_size))

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        return gaussian_log_prob(self.act(observation), self.log_std.clamp(-5, 2), action)


class TanhGaussianPolicy(Deployable):
    """The squashed policy of SAC, with a deviation for each state."""

    def __init__(self, observation_size: int, action_size: int, hidden: int) -> None:
        super().__init__()
        self.network = mlp(observation_size, 2 * action_size, hidden)

    def act(self, observation: Tensor) -> Tensor:
        return self.network(observation).chunk(2, -1)[0].tanh()

    def sample(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Actions `[*batch, A]` with gradients to the policy, and their log-densities `[*batch]`."""
        mean, log_std = self.network(observation).chunk(2, -1)
        log_std = log_std.clamp(-5, 2)
        pre_tanh = mean + log_std.exp() * torch.randn_like(mean)
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


class OneStepPolicy(SamplingPolicy):
    """An action of an observation and noise, not clipped."""

    def __init__(self, observation_size: int, action_size: int, hidden: int) -> None:
        super().__init__(action_size)
        self.network = mlp(observation_size + action_size, action_size, hidden)

    def forward(self, observation: Tensor, noise: Tensor) -> Tensor:
        return self.network(torch.cat([observation, noise], -1))


def twin_critics(task: Task, hidden: int) -> Critics | DiscreteCritics:
    kind = DiscreteCritics if task.discrete else Critics
    return kind(task.observation_size, task.action_size, hidden).to(task.data.device)


def imitation_policy(task: Task, hidden: int) -> GaussianPolicy | CategoricalPolicy:
    kind = CategoricalPolicy if task.discrete else GaussianPolicy
    return kind(task.observation_size, task.action_size, hidden).to(task.data.device)
