"""The laws of off-policy evaluation by whole episodes, most of which hold for every estimator."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from comparison import close, gradients, not_above
from evaluation import ESTIMATORS, PROCESS, WEIGHTED, WITHOUT_BIAS, Log, joined, logs
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from scipy.special import logsumexp
from strategies import discounts, reals

from offline_losses import (
    episode_return,
    importance_sampling_value,
    importance_weights,
    weighted_importance_sampling_value,
)
from offline_losses._core import blocks, pieces

INF = math.inf
each_estimator = pytest.mark.parametrize("name", ESTIMATORS)


def ends(log: Log) -> torch.Tensor:
    """The last step of each episode."""
    end = log.done.clone()
    end[-1] = True
    return end


@each_estimator
@given(log=logs(never=False), discount=discounts)
def test_blocks_of_episodes_change_neither_value_nor_gradient(name: str, log: Log, discount: float) -> None:
    """A large log goes through them, here one of a few steps."""
    found = []
    for steps in (blocks.BLOCK, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, "BLOCK", steps)
            inner = [x.clone().requires_grad_() for x in (log.reward, log.log_ratio)]
            changed = log._replace(reward=inner[0], log_ratio=inner[1])
            result = ESTIMATORS[name](changed, discount=discount)
            found.append([*result, *torch.autograd.grad(result.value, inner)])
    for one, other in zip(*found, strict=True):
        close(one, other, 1e-9)


@given(log=logs())
def test_blocks_of_episodes_change_no_weight(log: Log) -> None:
    """They are put together in their order."""
    whole = importance_weights(log.log_ratio, log.done)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", 3)
        close(importance_weights(log.log_ratio, log.done), whole, 1e-9)


@each_estimator
@given(data=st.data(), discount=discounts)
def test_many_steps_are_no_other_than_few(name: str, data: st.DataObject, discount: float) -> None:
    """Many are summed up by episodes, in blocks, some actions never taken, and some ratios too large for such sums."""
    log = data.draw(logs())
    if data.draw(st.booleans()):
        log = log._replace(log_ratio=torch.where(log.log_ratio > 1.5, 2 * pieces.LARGEST, log.log_ratio))
    few = ESTIMATORS[name](log, discount=discount)
    for steps in (blocks.BLOCK, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pieces, "MANY", 1)
            patch.setattr(blocks, "BLOCK", steps)
            many = ESTIMATORS[name](log, discount=discount)
        for one, other in zip(few, many, strict=True):
            close(one, other, 1e-9)


@each_estimator
@given(log=logs(), discount=discounts)
def test_follows_the_paper(name: str, log: Log, discount: float) -> None:
    """Value, error and size, with actions that the policy never takes."""
    given_arguments = log if "robust" in name else log.plain
    wanted = ORACLES[name](*(each.numpy() for each in given_arguments), discount=discount)
    for actual, expected in zip(ESTIMATORS[name](log, discount=discount), wanted, strict=True):
        close(actual, expected, 1e-8)


def test_all_episodes_of_a_process_give_its_value() -> None:
    """Their probabilities as weights, the mean of the unbiased estimates is the truth, whatever the model says."""
    model = torch.tensor([[3.0, -1.0], [0.5, 7.0]], dtype=torch.float64)
    every = list(PROCESS.every_episode(lambda steps: model * steps))
    assert len(every) > 30
    assert abs(sum(p for p, _ in every) - 1) < 1e-12
    for name, estimator in WITHOUT_BIAS.items():
        found = sum(p * estimator(log, discount=PROCESS.discount).value for p, log in every)
        assert abs(found - PROCESS.truth()) < 1e-12, name
    weights = sum(p * importance_weights(log.log_ratio, log.done)[-1] for p, log in every)
    assert abs(weights - 1) < 1e-12


def test_a_sample_in_exact_proportion_gives_the_value_to_the_weighted_forms() -> None:
    """Each episode as often as its probability says: nothing is left to chance, and no bias either."""
    log = PROCESS.sample(PROCESS.q)
    for name, estimator in ESTIMATORS.items():
        assert abs(estimator(log, discount=PROCESS.discount).value - PROCESS.truth()) < 1e-12, name


@given(log=logs(), discount=discounts)
def test_on_its_own_data_the_value_is_the_mean_return(log: Log, discount: float) -> None:
    """Ratios of one, also where episodes differ in length; the error is that of a mean, the size their number."""
    log = log._replace(log_ratio=torch.zeros_like(log.reward))
    returns = episode_return(log.reward, log.done, discount=discount)[ends(log)]
    for name, estimator in ESTIMATORS.items():
        if "robust" not in name:
            value, error, size = estimator(log, discount=discount)
            close(value, returns.mean())
            close(error, returns.std() / len(returns) ** 0.5 if len(returns) > 1 else INF, 1e-7)
            close(size, float(len(returns)))


@each_estimator
@given(log=logs(), data=st.data())
def test_the_order_of_episodes_does_not_matter_and_twice_the_data_are_twice_as_many(
    name: str, log: Log, data: st.DataObject
) -> None:
    """A permutation changes nothing; the same episodes again leave the value, and double the size."""
    stops = [0, *(ends(log).nonzero().flatten() + 1).tolist()]
    steps = [torch.arange(start, stop) for start, stop in pairwise(stops)]
    log = log._replace(done=ends(log))
    moved = log.take(torch.cat([steps[i] for i in data.draw(st.permutations(range(len(steps))))]))
    one, other, twice = (ESTIMATORS[name](x, discount=0.9) for x in (log, moved, joined([log, log])))
    for actual, expected in zip(other, one, strict=True):
        close(actual, expected)
    close(twice.value, one.value)
    close(twice.effective_sample_size, 2 * one.effective_sample_size)
    n = len(steps)
    if n > 1 and one.effective_sample_size > 0:
        close(twice.standard_error, one.standard_error * ((n - 1) / (2 * n - 1)) ** 0.5, 1e-7)


@pytest.mark.parametrize("name", WEIGHTED)
@given(log=logs(), shift=reals(-5000.0, 5000.0))
def test_a_common_factor_of_all_weights_changes_nothing(name: str, log: Log, shift: float) -> None:
    """Also one that no float holds."""
    first = torch.cat([torch.tensor([True]), ends(log)[:-1]])
    moved = log._replace(log_ratio=log.log_ratio + torch.where(first, shift, 0.0))
    for one, other in zip(WEIGHTED[name](log, discount=0.9), WEIGHTED[name](moved, discount=0.9), strict=True):
        close(one, other, 1e-8)


@given(log=logs())
def test_a_weighted_mean_stays_among_the_returns(log: Log) -> None:
    """And so does not depend on a constant that is added to them."""
    returns = episode_return(log.reward, log.done, discount=1.0)[ends(log)]
    value, error, size = weighted_importance_sampling_value(*log.plain, discount=1.0)
    if size > 0:
        not_above(value, returns.max())
        not_above(returns.min(), value)
        last = torch.where(ends(log), 3.0, 0.0)
        moved = weighted_importance_sampling_value(log.reward + last, *log.plain[1:], discount=1.0)
        close(moved.value, value + 3.0)
        close(moved.standard_error, error)


@given(log=logs(never=False), bound=reals(0.1, 5.0))
def test_a_bound_acts_on_each_weight_alone(log: Log, bound: float) -> None:
    """The product goes on behind it; of the estimates it bounds the size and every contribution."""
    free = importance_weights(log.log_ratio, log.done)
    close(importance_weights(log.log_ratio, log.done, max_weight=bound), free.clamp(max=bound))
    ones = torch.where(ends(log), 1.0, torch.zeros_like(log.reward))
    for name in WITHOUT_BIAS:
        log = log._replace(q_data=0 * free, value=0 * free, next_value=0 * free)
        value, _, size = WITHOUT_BIAS[name](log._replace(reward=ones), discount=1.0, max_weight=bound)
        weights = free.clamp(max=bound)[ends(log)]
        close(value, weights.mean())
        close(size, weights.sum() ** 2 / weights.square().sum())


@given(log=logs())
def test_weights_are_detached_products(log: Log) -> None:
    """An impossible action makes everything behind it in its episode impossible, and nothing in the next one."""
    log_ratio = log.log_ratio.clone().requires_grad_()
    weights = importance_weights(log_ratio, log.done)
    assert not weights.requires_grad
    close(weights, ORACLES["importance_weights"](log.log_ratio.numpy(), log.done.numpy()), 1e-8)


@each_estimator
def test_an_impossible_action_leaks_nothing(name: str) -> None:
    """Neither NaN nor a gradient comes out of -inf: the episode's weight is zero, and so are its slopes."""
    log = Log(*(torch.ones(5).double() for _ in range(5)), *(torch.tensor([0, 1, 0, 1, 1]).bool() for _ in range(2)))
    log = log._replace(log_ratio=torch.tensor([0.5, -INF, 0.3, 0.1, -0.2]).double())

    def run(reward: torch.Tensor, log_ratio: torch.Tensor) -> torch.Tensor:
        found = ESTIMATORS[name](log._replace(reward=reward, log_ratio=log_ratio), discount=0.9)
        return found.value + found.standard_error + found.effective_sample_size

    reward, log_ratio = log.reward.requires_grad_(), log.log_ratio.requires_grad_()
    first = torch.autograd.grad(run(reward, log_ratio), [reward, log_ratio], create_graph=True)
    second = torch.autograd.grad(sum(x.square().sum() for x in first), [reward, log_ratio])
    assert all(x.isfinite().all() for x in (*first, *second))
    assert first[1][1] == 0
    if "importance" in name:
        assert (first[0][:2] == 0).all() or name in WITHOUT_BIAS


@each_estimator
def test_a_policy_that_makes_none_of_the_episodes_has_an_unknown_value(name: str) -> None:
    """The error is infinite and the size zero, whatever the value; gradients are zero."""
    flags = torch.tensor([False, True, True])
    log = Log(*(torch.zeros(3).double() for _ in range(5)), flags, flags)
    log = log._replace(reward=torch.ones(3).double(), log_ratio=torch.full((3,), -INF).double())
    value, error, size = ESTIMATORS[name](log)
    assert (value, error, size) == (0, INF, 0)
    slopes = gradients(lambda *x: ESTIMATORS[name](log._replace(reward=x[0], log_ratio=x[1])).value, *log.plain[:2])
    assert all((slope == 0).all() for slope in slopes)


@each_estimator
def test_one_episode_has_no_error(name: str) -> None:
    """What is not known is not zero."""
    flags = torch.tensor([False, True])
    log = Log(*(torch.ones(2) for _ in range(5)), flags, flags)
    assert ESTIMATORS[name](log).standard_error == INF
    assert ESTIMATORS[name](log).effective_sample_size == 1


@pytest.mark.parametrize("size", [5.0, 500.0, 5e5])
def test_an_episode_has_the_weights_that_it_has_alone(size: float) -> None:
    """What stands before it, however small or large its weights, takes no digits from it."""
    generator = torch.Generator().manual_seed(0)
    log_ratio = 0.1 * torch.randn(20, 1000, dtype=torch.float64, generator=generator)
    log_ratio[::2] -= size
    done = torch.zeros(20, 1000, dtype=torch.bool)
    done[:, -1] = True
    found = importance_weights(log_ratio.flatten(), done.flatten()).view(20, 1000)
    for i in range(1, 20, 2):
        torch.testing.assert_close(found[i], log_ratio[i].cumsum(0).exp(), rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("drift", [-5.0, 0.0, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_long_episodes_neither_under_nor_overflow(drift: float, dtype: torch.dtype) -> None:
    """Ten thousand steps with log-ratios up to 5 in size: weights from e^-50000 to e^50000."""
    torch.manual_seed(1)
    n, steps = 8, 10_000
    sign = 2.0 * (torch.rand(n, steps) < 0.5) - 1 if drift == 0 else torch.ones(n, steps)
    log_ratio, reward = 5.0 * (sign if drift == 0 else drift / 5 * torch.rand(n, steps)), torch.randn(n, steps)
    done = torch.zeros(n, steps, dtype=torch.bool)
    zero = torch.zeros(n, steps)
    log = Log(*(x.to(dtype) for x in (reward, zero, zero, zero, log_ratio)), done, done)
    total = log_ratio.to(dtype).double().sum(-1)
    returns = (reward.to(dtype).double() * 0.999 ** torch.arange(steps)).sum(-1)
    share = (total - logsumexp(total)).exp()
    for estimator in ESTIMATORS.values():
        assert not any(x.isnan() for x in estimator(log, discount=0.999))
    value, _, size = weighted_importance_sampling_value(*log.plain, discount=0.999)
    close(value.double(), (share * returns).sum(), 1e-5)
    close(size.double(), 1 / share.square().sum(), 1e-5)
    assert all(estimator(log, discount=0.999).value.isfinite() for estimator in WEIGHTED.values())
    assert not importance_weights(log.log_ratio, done, max_weight=10.0).isnan().any()


def test_a_weight_that_no_float_holds_does_not_spoil_the_rewards_before_it() -> None:
    """Rewards of zero stay zero behind it, and nothing is NaN where they are not, in the gradients either."""
    log_ratio = torch.tensor([0.0, 900.0, 0.0], dtype=torch.float64)
    done = torch.tensor([False, True, True])
    for reward, finite in ((torch.tensor([2.0, 0.0, 4.0]), True), (torch.tensor([2.0, 1.0, 4.0]), False)):
        reward = reward.double()
        zero = torch.zeros(3).double()
        log = Log(reward, zero, zero, zero, log_ratio, done, done)
        found = WITHOUT_BIAS["per_decision_value"](log, discount=1.0)
        assert found.value == 3.0 if finite else found.value > 1e250
        for slope in gradients(lambda *x: importance_sampling_value(*x, done).value, reward, log_ratio):
            assert not slope.isnan().any()


@each_estimator
def test_there_is_a_step_and_one_discount(name: str) -> None:
    """Rows without any are refused, and so is a discount for each step."""
    for shape, knobs, argument in [
        ((0, 3), {}, "reward"),
        ((3, 0), {}, "reward"),
        ((2, 3), {"discount": 0}, "discount"),
    ]:
        numbers = [torch.ones(shape)] * 5
        log = Log(*numbers, *[torch.ones(shape, dtype=torch.bool)] * 2)
        with pytest.raises(ValueError, match=f"{name}: {argument}: expected"):
            ESTIMATORS[name](log, **dict.fromkeys(knobs, numbers[0]))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_weights_are_of_steps(shape: tuple[int, ...]) -> None:
    """Of none there is none."""
    with pytest.raises(ValueError, match="importance_weights: log_ratio: expected a last axis of at least one step"):
        importance_weights(torch.ones(shape), torch.ones(shape, dtype=torch.bool))
