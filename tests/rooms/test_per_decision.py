"""The laws of evaluation reward by reward: later ratios do not matter, and ended episodes keep their weight."""

from __future__ import annotations

from itertools import pairwise

import torch
from comparison import close, gradients
from evaluation import Log, logs
from hypothesis import given
from hypothesis import strategies as st
from strategies import discounts, reals, tensors

from offline_losses import per_decision_value, weighted_importance_sampling_value, weighted_per_decision_value


@given(log=logs(), discount=discounts)
def test_a_reward_at_the_end_alone_is_weighted_as_a_whole(log: Log, discount: float) -> None:
    """Episodes of one length whose only reward is the last: both weighted forms agree."""
    n = int(log.done.sum())
    reward = torch.zeros(n, 4, dtype=torch.float64)
    reward[:, -1] = log.reward[:n]
    log_ratio = log.log_ratio[torch.arange(4 * n) % len(log.log_ratio)].view(n, 4)
    done = torch.zeros(n, 4, dtype=torch.bool)
    whole = weighted_importance_sampling_value(reward, log_ratio, done, discount=discount)
    each = weighted_per_decision_value(reward, log_ratio, done, discount=discount)
    for one, other in zip(whole, each, strict=True):
        close(one, other)


@given(log=logs(never=False), data=st.data())
def test_ratios_after_the_last_reward_do_not_matter(log: Log, data: st.DataObject) -> None:
    """Only those up to a reward weigh it."""
    rows = torch.stack([log.reward[:1], log.reward[-1:]])
    reward = torch.cat([rows, torch.zeros(2, 3).double()], 1)
    done = torch.zeros(2, 4, dtype=torch.bool)
    first = log.log_ratio[[0, -1]].view(2, 1)
    values = [
        function(reward, torch.cat([first, data.draw(tensors((2, 3), -3.0, 3.0))], 1), done).value
        for function in (per_decision_value, weighted_per_decision_value)
        for _ in range(2)
    ]
    close(values[0], values[1])
    close(values[2], values[3])


def test_an_ended_episode_stays_in_the_normalizer() -> None:
    """Of two equal policies, one episode of one step and one of three: the mean return, not that of the longer."""
    reward, done = torch.ones(4).double(), torch.tensor([True, False, False, True])
    zero = torch.zeros(4).double()
    value, error, _ = weighted_per_decision_value(reward, zero, done, discount=1.0)
    close(value, 2.0)
    close(error, 1.0)
    log_ratio = torch.tensor([3.0, 1.0, 1.0, 1.0]).double().log()
    value = weighted_per_decision_value(reward, log_ratio, done, discount=1.0).value
    close(value, 1 + 0.25 + 0.25)


@given(log=logs(), scale=reals(1.0, 300.0))
def test_no_weight_is_too_large_or_small_for_a_share(log: Log, scale: float) -> None:
    """Episodes of any length with log-ratios of hundreds: each step's shares are a softmax of the logarithms."""
    reward, log_ratio, done = log.reward, scale * log.log_ratio, log.done.clone()
    done[-1] = True
    stops = [-1, *done.nonzero().flatten().tolist()]
    rewards = [reward[i + 1 : j + 1] for i, j in pairwise(stops)]
    exponents = [log_ratio[i + 1 : j + 1].cumsum(0) for i, j in pairwise(stops)]
    total = torch.zeros((), dtype=torch.float64)
    for step in range(max(map(len, rewards))):
        carried = torch.stack([exponent[min(step, len(exponent) - 1)] for exponent in exponents])
        if carried.max() > -torch.inf:
            each = torch.stack([r[step] if step < len(r) else torch.zeros_like(total) for r in rewards])
            total = total + 0.9**step * carried.softmax(0) @ each
    found = weighted_per_decision_value(reward, log_ratio, done, discount=0.9)
    close(found.value, total, 1e-7)
    slopes = gradients(lambda *x: sum(weighted_per_decision_value(*x, done, discount=0.9)[:2]), reward, log_ratio)
    if found.standard_error.isfinite():
        assert all(slope.isfinite().all() for slope in slopes)


def test_equal_rewards_of_equal_episodes_are_certain() -> None:
    """Every reward one: the value is the sum of the discounts and the error zero, whatever the ratios."""
    log_ratio, done = 3 * torch.randn(6, 5).double(), torch.zeros(6, 5, dtype=torch.bool)
    value, error, _ = weighted_per_decision_value(torch.ones(6, 5).double(), log_ratio, done, discount=0.5)
    close(value, 1.9375)
    close(error, 0.0)


def test_no_discount_leaves_the_first_reward() -> None:
    """Its exponent is zero; the slope by the discount is that of the second reward."""
    reward, done = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double(), torch.zeros(2, 2, dtype=torch.bool)
    for function in (per_decision_value, weighted_per_decision_value):
        discount = torch.zeros((), dtype=torch.float64, requires_grad=True)
        value = function(reward, torch.zeros(2, 2).double(), done, discount=discount).value
        (slope,) = torch.autograd.grad(value, discount, create_graph=True)
        (curvature,) = torch.autograd.grad(slope, discount)
        assert (value, slope, curvature) == (2, 3, 0)
