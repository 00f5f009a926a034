"""Logged episodes and a small decision process for off-policy evaluation, and its estimators under one signature."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from strategies import episodes, masks, tensors
from torch import Tensor

import offline_losses as ol
from offline_losses import ValueEstimate

Estimator = Callable[..., ValueEstimate]


class Log(NamedTuple):
    """Episodes of another policy, with a model's values of each step."""

    reward: Tensor
    q_data: Tensor
    value: Tensor
    next_value: Tensor
    log_ratio: Tensor
    terminated: Tensor
    done: Tensor

    @property
    def plain(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the estimators without a model take."""
        return self.reward, self.log_ratio, self.done

    def take(self, index: Tensor) -> Log:
        """These steps, in this order."""
        return Log(*(each[index] for each in self))


def _without_model(function: Callable[..., ValueEstimate]) -> Estimator:
    return lambda log, **knobs: function(*log.plain, **knobs)


def _with_model(function: Callable[..., ValueEstimate]) -> Estimator:
    return lambda log, **knobs: function(*log, **knobs)


WITHOUT_BIAS: dict[str, Estimator] = {
    "importance_sampling_value": _without_model(ol.importance_sampling_value),
    "per_decision_value": _without_model(ol.per_decision_value),
    "doubly_robust_value": _with_model(ol.doubly_robust_value),
}
WEIGHTED: dict[str, Estimator] = {
    "weighted_importance_sampling_value": _without_model(ol.weighted_importance_sampling_value),
    "weighted_per_decision_value": _without_model(ol.weighted_per_decision_value),
    "weighted_doubly_robust_value": _with_model(ol.weighted_doubly_robust_value),
}
ESTIMATORS = WITHOUT_BIAS | WEIGHTED


@st.composite
def logs(draw: st.DrawFn, never: bool = True) -> Log:
    """Episodes of random length; some actions are such as the policy never takes."""
    x = draw(episodes())
    shape = tuple(x.reward.shape)
    log_ratio = draw(tensors(shape, -2.0, 2.0))
    if never:
        log_ratio = torch.where(draw(masks(shape)) & draw(masks(shape)) & draw(masks(shape)), -math.inf, log_ratio)
    q_data, value, next_value = (draw(tensors(shape, -5.0, 5.0)) for _ in range(3))
    return Log(x.reward, q_data, value, next_value, log_ratio, x.terminated, x.done)


class Process(NamedTuple):
    """Two states and two actions; an action ends the episode with some probability, and time does after `horizon`."""

    reward: Tensor  # [S, A]
    following: Tensor  # [S, A, S], what is missing to 1 is the probability to end
    start: Tensor  # [S]
    policy: Tensor  # [S, A]
    behavior: Tensor  # [S, A]
    discount: float
    horizon: int

    def q(self, steps: int) -> Tensor:
        """Exact action values of the policy with so many steps to go."""
        q = torch.zeros_like(self.reward)
        for _ in range(steps):
            q = self.reward + self.discount * self.following @ (self.policy * q).sum(-1)
        return q

    def value(self, steps: int) -> Tensor:
        """Exact state values."""
        return (self.policy * self.q(steps)).sum(-1)

    def truth(self) -> Tensor:
        """What the policy earns within the horizon, on average."""
        return self.start @ self.value(self.horizon)

    def every_episode(self, model: Callable[[int], Tensor]) -> Iterator[tuple[float, Log]]:
        """All episodes that the behavior policy can make, each with its probability, and `model(steps to go)` as Q."""

        def go_on(state: int, probability: float, path: list[tuple[int, int]]) -> Iterator[tuple[float, Log]]:
            for action in range(2):
                taken, chance = [*path, (state, action)], probability * float(self.behavior[state, action])
                if len(taken) == self.horizon:
                    yield chance, self._log(taken, model)
                    continue
                ending = 1 - float(self.following[state, action].sum())
                if ending > 1e-9:
                    yield chance * ending, self._log(taken, model)
                for following in range(2):
                    further = chance * float(self.following[state, action, following])
                    if further > 0:
                        yield from go_on(following, further, taken)

        for state in range(2):
            if self.start[state] > 0:
                yield from go_on(state, float(self.start[state]), [])

    def sample(self, model: Callable[[int], Tensor]) -> Log:
        """All these episodes, each as often as its probability says."""
        every = [(2**12 * p, log) for p, log in self.every_episode(model)]
        assert all(count == int(count) for count, _ in every)
        return joined([log for count, log in every for _ in range(int(count))])

    def _log(self, path: list[tuple[int, int]], model: Callable[[int], Tensor]) -> Log:
        state, action = torch.tensor(path).T
        q = torch.stack([model(self.horizon - t)[s] for t, s in enumerate(state)])
        value = (self.policy[state] * q).sum(-1)
        end = torch.arange(len(path)) == len(path) - 1
        return Log(
            self.reward[state, action],
            q[torch.arange(len(path)), action],
            value,
            torch.cat([value[1:], value.new_zeros(1)]),
            self.policy[state, action].log() - self.behavior[state, action].log(),
            end,
            end,
        )


PROCESS = Process(
    reward=torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64),
    following=torch.tensor([[[0.5, 0.25], [0.0, 0.5]], [[0.25, 0.5], [0.75, 0.25]]], dtype=torch.float64),
    start=torch.tensor([0.75, 0.25], dtype=torch.float64),
    policy=torch.tensor([[0.9, 0.1], [0.0, 1.0]], dtype=torch.float64),
    behavior=torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=torch.float64),
    discount=0.9,
    horizon=3,
)
"""Its policy never takes the first action of the second state; the behavior's numbers are multiples of a power of 2."""


def joined(logs: list[Log]) -> Log:
    """All episodes on one time axis."""
    return Log(*(torch.cat(parts) for parts in zip(*logs, strict=True)))
