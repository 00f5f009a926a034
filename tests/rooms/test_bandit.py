"""The laws of evaluating single decisions: unbiased over all that could have been logged, and what constants do."""

from __future__ import annotations

import math
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from strategies import batches, masks, reals, tensors
from torch import Tensor

from offline_losses import (
    ValueEstimate,
    bandit_doubly_robust_value,
    doubly_robust_value,
    importance_sampling_value,
    ips_value,
    per_decision_value,
    self_normalized_ips_value,
    weighted_importance_sampling_value,
    weighted_per_decision_value,
)


class Log(NamedTuple):
    """Decisions of another policy, with a model's rewards."""

    reward: Tensor
    q_data: Tensor
    value: Tensor
    policy_probability: Tensor
    propensity: Tensor

    @property
    def plain(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the estimators without a model take."""
        return self.reward, self.policy_probability, self.propensity


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Some of the actions are such as the policy never takes."""
    shape = draw(batches(1, 2))
    probability = torch.where(draw(masks(shape)) & draw(masks(shape)), 0.0, draw(tensors(shape, 0.01, 1.0)))
    return Log(*(draw(tensors(shape, -5.0, 5.0)) for _ in range(3)), probability, draw(tensors(shape, 0.05, 1.0)))


def all_of(log: Log) -> dict[str, ValueEstimate]:
    """The three estimates."""
    return {
        "ips_value": ips_value(*log.plain),
        "self_normalized_ips_value": self_normalized_ips_value(*log.plain),
        "bandit_doubly_robust_value": bandit_doubly_robust_value(*log),
    }


@given(log=logs())
def test_follows_the_paper(log: Log) -> None:
    """Value, error and size."""
    for name, found in all_of(log).items():
        inputs = log if "robust" in name else log.plain
        for actual, expected in zip(found, ORACLES[name](*(x.numpy() for x in inputs)), strict=True):
            close(actual, expected, 1e-8)


@given(log=logs())
def test_one_step_episodes_are_decisions(log: Log) -> None:
    """The same numbers from logarithms, each step an episode of its own."""
    reward = log.reward.flatten()
    log_ratio = log.policy_probability.flatten().log() - log.propensity.flatten().log()
    done = torch.ones_like(reward, dtype=torch.bool)
    for one, other in (
        (ips_value(*log.plain), importance_sampling_value(reward, log_ratio, done)),
        (self_normalized_ips_value(*log.plain), weighted_importance_sampling_value(reward, log_ratio, done)),
    ):
        for actual, expected in zip(one, other, strict=True):
            close(actual, expected, 1e-7)


def test_all_that_could_have_been_logged_gives_the_value() -> None:
    """Three actions, their propensities as weights: no bias with any model, and none with wrong propensities if the
    model is right."""
    propensity = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    policy = torch.tensor([0.7, 0.3, 0.0], dtype=torch.float64)
    reward = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)
    truth = (policy * reward).sum()
    model = torch.tensor([3.0, 1.0, -1.0], dtype=torch.float64)

    def expected(q: Tensor, p: Tensor) -> Tensor:
        value = (policy * q).sum().view(1)
        one = [
            bandit_doubly_robust_value(reward[i : i + 1], q[i : i + 1], value, policy[i : i + 1], p[i : i + 1]).value
            for i in range(3)
        ]
        return (propensity * torch.stack(one)).sum()

    assert abs(expected(model, propensity) - truth) < 1e-12
    assert abs(expected(0 * model, propensity) - truth) < 1e-12
    assert abs(expected(reward, torch.tensor([0.1, 0.8, 0.1], dtype=torch.float64)) - truth) < 1e-12
    counts = (10 * propensity).round().long()
    log = [x.repeat_interleave(counts) for x in (reward, policy, propensity)]
    assert abs(self_normalized_ips_value(*log).value - truth) < 1e-12


@given(log=logs(), constant=reals(-5.0, 5.0), factor=reals(0.1, 10.0))
def test_a_constant_moves_the_normalized_form_along(log: Log, constant: float, factor: float) -> None:
    """It stays among the rewards, and a factor common to all probabilities changes nothing."""
    value, error, size = self_normalized_ips_value(*log.plain)
    if size > 0:
        moved = self_normalized_ips_value(log.reward + constant, factor * log.policy_probability, log.propensity)
        for actual, expected in zip(moved, (value + constant, error, size), strict=True):
            close(actual, expected, 1e-8)
        not_above(value, log.reward.max())
        not_above(log.reward.min(), value)
        weights = log.policy_probability / log.propensity
        close(ips_value(*log.plain).value, value * weights.mean(), 1e-8)


@given(log=logs(), bound=reals(0.1, 3.0))
def test_a_bound_acts_on_the_weights(log: Log, bound: float) -> None:
    """As if the policy took these actions less often; without a model the doubly robust form is the plain one."""
    less = torch.minimum(log.policy_probability, bound * log.propensity)
    bounded = ips_value(*log.plain, max_weight=bound)
    for actual, expected in zip(bounded, ips_value(log.reward, less, log.propensity), strict=True):
        close(actual, expected)
    zero = torch.zeros_like(log.reward)
    robust = bandit_doubly_robust_value(log.reward, zero, zero, *log.plain[1:], max_weight=bound)
    for actual, expected in zip(robust, bounded, strict=True):
        close(actual, expected)


def test_a_policy_that_takes_none_of_the_actions_has_an_unknown_value() -> None:
    """The error is infinite; gradients are finite, second ones too."""
    zero, one = torch.zeros(3).double(), torch.ones(3).double()
    for value, error, size in all_of(Log(one, one, zero, zero, one)).values():
        assert (value, error, size) == (0, math.inf, 0)
    for function in (ips_value, self_normalized_ips_value):
        for field in range(2):
            slopes = gradients(lambda *x, f=function, i=field: f(*x)[i], one, zero, one)
            assert all(slope.isfinite().all() for slope in slopes)
    assert ips_value(one[:1], one[:1], one[:1]).standard_error == math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_small_propensities_are_added_exactly(dtype: torch.dtype) -> None:
    """A million clicks at a propensity of 1/80: the mean of equal terms is that term."""
    n = 1_000_000
    reward, probability = torch.ones(n, dtype=dtype), torch.full((n,), 0.0125, dtype=dtype)
    value, error, size = ips_value(reward, probability, probability)
    assert (value, error, size) == (1, 0, n)


def test_agrees_with_the_open_bandit_pipeline() -> None:
    """What obp 0.5.7 gave for six decisions among three actions, with a bound on the weights and without."""
    reward = torch.tensor([1.0, 0.0, 1.0, 0.5, -1.0, 2.0], dtype=torch.float64)
    action = torch.tensor([0, 1, 2, 1, 0, 2])
    propensity = torch.tensor([0.5, 0.3, 0.2, 0.25, 0.5, 0.0625], dtype=torch.float64)
    rows = [[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0, 0.5, 0.5], [1, 0, 0], [0.25, 0.5, 0.25], [0.125, 0.125, 0.75]]
    policy = torch.tensor(rows, dtype=torch.float64)
    rows = [[0.9, 0.1, 0.2], [0.5, 0.4, 1.0], [0.0, 0.5, 0.75], [1, -1, 0], [0.25, 0.5, 0.25], [0.1, 0.2, 1.5]]
    q = torch.tensor(rows, dtype=torch.float64)
    taken = action.unsqueeze(-1)
    probability, q_data = policy.gather(-1, taken).squeeze(-1), q.gather(-1, taken).squeeze(-1)
    log = (reward, q_data, (policy * q).sum(-1), probability, propensity)
    close(ips_value(reward, probability, propensity).value, 4.533333333333333, 1e-12)
    close(ips_value(reward, probability, propensity, max_weight=2.0).value, 1.1166666666666667, 1e-12)
    close(self_normalized_ips_value(reward, probability, propensity).value, 1.6126482213438733, 1e-12)
    close(bandit_doubly_robust_value(*log).value, 1.7309722222222224, 1e-12)
    close(bandit_doubly_robust_value(*log, max_weight=2.0).value, 0.8768055555555557, 1e-12)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3)])
def test_there_is_a_decision(shape: tuple[int, ...]) -> None:
    """Of none there is no mean."""
    for function, count in ((ips_value, 3), (self_normalized_ips_value, 3), (bandit_doubly_robust_value, 5)):
        with pytest.raises(
            ValueError, match=f"{function.__name__}: reward: expected a last axis of at least one sample"
        ):
            function(*[torch.ones(shape)] * count)


class Slates(NamedTuple):
    """Items from the top position down, each chosen after those above it; [slates, positions]."""

    reward: Tensor
    q_data: Tensor
    value: Tensor
    policy_probability: Tensor  # of the item, given those above it
    propensity: Tensor


def by_slate(slates: Slates) -> dict[str, ValueEstimate]:
    """Each slate as an episode whose steps are its positions."""
    reward, q_data, value, policy, propensity = slates
    log_ratio, end = policy.log() - propensity.log(), torch.arange(reward.shape[1]) == reward.shape[1] - 1
    done = end.expand(reward.shape)
    next_value = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], 1)
    model = reward, q_data, value, next_value, log_ratio, done, done
    return {
        "whole": importance_sampling_value(reward, log_ratio, done, discount=1.0),
        "from the top": per_decision_value(reward, log_ratio, done, discount=1.0),
        "from the top, weighted": weighted_per_decision_value(reward, log_ratio, done, discount=1.0),
        "from the top, with a model": doubly_robust_value(*model, discount=1.0),
    }


def test_slates_are_evaluated_as_the_papers_do() -> None:
    """Position by position: by the weights of all items, of those down to it, and with a model of what follows."""
    generator = torch.Generator().manual_seed(0)
    draws = (torch.rand(30, 3, generator=generator, dtype=torch.float64) for _ in range(5))
    slates = Slates(*(0.1 + 0.9 * x for x in draws))
    reward, q_data, value, policy, propensity = (x.tolist() for x in slates)
    sums = dict.fromkeys(("whole", "from the top", "from the top, weighted", "from the top, with a model"), 0.0)
    ratio = [[math.prod(p[: j + 1]) / math.prod(b[: j + 1]) for j in range(3)] for p, b in zip(policy, propensity)]  # noqa: B905
    for i in range(30):
        for j in range(3):
            weight, above = ratio[i][j], ratio[i][j - 1] if j else 1.0
            share = weight / math.fsum(w[j] for w in ratio)
            sums["whole"] += ratio[i][2] * reward[i][j] / 30
            sums["from the top"] += weight * reward[i][j] / 30
            sums["from the top, weighted"] += share * reward[i][j]
            sums["from the top, with a model"] += (weight * (reward[i][j] - q_data[i][j]) + above * value[i][j]) / 30
    for name, found in by_slate(slates).items():
        close(found.value, sums[name], 1e-12)


def test_slates_from_the_top_are_unbiased_where_a_click_depends_on_what_stands_above() -> None:
    """Two items in two places: the mean over all slates is the truth, which that of single positions is not."""
    behavior, policy = ([0.3, [0.6, 0.2]], [0.8, [0.5, 0.9]])  # of item 0 first, and then after each
    truth, mean, apart = 0.0, dict.fromkeys(by_slate(Slates(*torch.ones(5, 1, 2).double())), 0.0), 0.0

    def chances(table: list[Any], first: int, second: int) -> list[float]:
        one, two = table[0], table[1][first]
        return [one if first == 0 else 1 - one, two if second == 0 else 1 - two]

    def marginal(table: list[Any], item: int) -> float:
        return sum(math.prod(chances(table, above, item)) for above in (0, 1))

    for first, second in product((0, 1), (0, 1)):
        b, p = chances(behavior, first, second), chances(policy, first, second)
        clicks = [0.2 + 0.5 * first, 0.9 if first == second else 0.1]
        truth += math.prod(p) * sum(clicks)
        q = [0.4 + first, 0.3 * second]  # any model of what is clicked from a position on
        value = [sum(chances(policy, x, 0)[0] * (0.4 + x) for x in (0, 1)), 0.3 * (1 - policy[1][first])]
        slate = Slates(*(torch.tensor([x], dtype=torch.float64) for x in (clicks, q, value, p, b)))
        for name, found in by_slate(slate).items():
            mean[name] += math.prod(b) * found.value.item()
        single = [p[0] / b[0] * clicks[0], marginal(policy, second) / marginal(behavior, second) * clicks[1]]
        apart += math.prod(b) * sum(single)
    assert abs(mean["whole"] - truth) < 1e-12
    assert abs(mean["from the top"] - truth) < 1e-12
    assert abs(mean["from the top, with a model"] - truth) < 1e-12
    assert abs(apart - truth) > 0.05
