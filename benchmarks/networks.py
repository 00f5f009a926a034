"""The networks that every variant of an update has, with the same weights at first, and the batch that it sees."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, relu

OBSERVATIONS, ACTIONS, HIDDEN, BATCH = 17, 6, 256, 256
DISCOUNT, POLYAK, LR = 0.99, 0.005, 3e-4
EXPECTILE, TEMPERATURE, MAX_WEIGHT = 0.7, 1 / 3, 100.0  # of IQL
PROPOSALS, CONSERVATIVE = (
    10,
    5.0,
)  # of CQL: from each of the uniform distribution, the policy here, and at the next state
NOISE, NOISE_CLIP, Q_WEIGHT = 0.2, 0.5, 2.5  # of TD3+BC
LOG_STD = (-5.0, 2.0)
CALLS = 4  # updates before the losses are compared; a compiled one is ready after as many
EXACT, ROUNDED, NOISY = 1e-3, 1e-2, 0.1  # tolerances of the losses then: in TF32, and where an update draws its noise
TF32 = f"batch {BATCH}, TF32"
SEED = 0


class MLP(nn.Module):
    """Two hidden layers; frozen, the gradient passes through it to its input and leaves the weights alone."""

    def __init__(self, inputs: int, outputs: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        widths = (inputs, hidden, hidden, outputs)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        for index, layer in enumerate(self.layers):
            weight, bias = (layer.weight.detach(), layer.bias.detach()) if frozen else (layer.weight, layer.bias)
            x = linear(relu(x) if index else x, weight, bias)
        return x


class Stack(nn.Module):
    """The networks of several runs, each layer of all of them one batched product."""

    def __init__(self, networks: Sequence[MLP]) -> None:
        super().__init__()
        layers = list(zip(*(network.layers for network in networks), strict=True))
        self.weights = nn.ParameterList(torch.stack([each.weight.detach().T for each in layer]) for layer in layers)
        self.biases = nn.ParameterList(torch.stack([each.bias.detach()[None] for each in layer]) for layer in layers)

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            weight, bias = (weight.detach(), bias.detach()) if frozen else (weight, bias)
            x = torch.baddbmm(bias, relu(x) if index else x, weight)
        return x


class Critics(nn.Module):
    """Twin Q(s, a), `[2, *batch]`."""

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, observation: Tensor, action: Tensor, frozen: bool = False) -> Tensor:
        pair = torch.cat([observation, action], -1)
        return torch.stack([network(pair, frozen).squeeze(-1) for network in self.networks])

    def first(self, observation: Tensor, action: Tensor, frozen: bool = False) -> Tensor:
        """The first critic alone, `[*batch]`."""
        return self.networks[0](torch.cat([observation, action], -1), frozen).squeeze(-1)


class Networks:
    """Everything that some update trains or averages; a policy has one output or two for each action."""

    runs = 1
    critics: Critics
    value: nn.Module
    policy: nn.Module

    def __init__(
        self, device: torch.device, policy_outputs: int = ACTIONS, hidden: int = HIDDEN, seed: int = SEED
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.critics = Critics(MLP(OBSERVATIONS + ACTIONS, 1, hidden) for _ in range(2)).to(device)
            self.value = MLP(OBSERVATIONS, 1, hidden).to(device)
            self.policy = MLP(OBSERVATIONS, policy_outputs, hidden).to(device)
        self.log_std = nn.Parameter(torch.zeros(ACTIONS, device=device))
        self.log_temperature = nn.Parameter(torch.zeros((), device=device))
        self._copy()

    def _copy(self) -> None:
        self.slow_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.slow_policy = copy.deepcopy(self.policy).requires_grad_(False)


class ManyNetworks(Networks):
    """Those of several runs, each from a seed of its own, with an axis of runs before the batch."""

    def __init__(self, device: torch.device, hidden: int, runs: int) -> None:
        each = [Networks(device, hidden=hidden, seed=SEED + run) for run in range(runs)]
        self.runs = runs
        self.critics = Critics(Stack([nets.critics.networks[k] for nets in each]) for k in range(2))
        self.value, self.policy = Stack([nets.value for nets in each]), Stack([nets.policy for nets in each])
        self.log_std = nn.Parameter(torch.zeros(runs, 1, ACTIONS, device=device))
        self._copy()


def fixed_batch(device: torch.device, seed: int = SEED) -> tuple[Tensor, ...]:
    """Observation, action, reward, next observation, and whether the episode terminated."""
    generator = torch.Generator().manual_seed(seed)
    observation, next_observation = torch.randn(2, BATCH, OBSERVATIONS, generator=generator)
    action = 2 * torch.rand(BATCH, ACTIONS, generator=generator) - 1
    reward = torch.randn(BATCH, generator=generator)
    terminated = torch.rand(BATCH, generator=generator) < 0.05
    return tuple(x.to(device) for x in (observation, action, reward, next_observation, terminated))
