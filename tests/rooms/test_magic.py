"""The laws of MAGIC: what it mixes, by which shares, and whom it believes when."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np
import pytest
import torch
from comparison import close, not_above
from evaluation import PROCESS, Log, logs
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from strategies import discounts, reals, tensors
from torch import Tensor

from offline_losses import bootstrap_interval, magic_value, weighted_doubly_robust_value
from offline_losses import magic as room
from offline_losses._core import blocks
from offline_losses._core.episodes import sequence_end
from offline_losses.magic import mixture, modeled, resampled, truncated


def magic(log: Log, **knobs: object) -> tuple[Tensor, Tensor, Tensor]:
    return magic_value(*log, **{"generator": torch.Generator().manual_seed(0), "resamples": 30, **knobs})


def modeled_values(log: Log, discount: float, steps: Iterable[int] | None) -> Tensor:
    """What each episode adds to each estimate."""
    found = modeled(**log._asdict(), discount=discount)
    return found.first_value + truncated(found, steps)


@given(log=logs(), discount=discounts)
def test_blocks_of_episodes_change_nothing(log: Log, discount: float) -> None:
    """Some have longer episodes than others."""
    whole = magic(log, discount=discount)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", 3)
        in_blocks = magic(log, discount=discount)
    for one, other in zip(whole, in_blocks, strict=True):
        close(one, other, 1e-9)


@given(log=logs(), discount=discounts)
def test_without_another_estimate_it_is_the_weighted_doubly_robust_one(log: Log, discount: float) -> None:
    """In all three numbers, whatever the interval."""
    wanted = weighted_doubly_robust_value(*log, discount=discount)
    for actual, expected in zip(magic(log, steps=(), discount=discount), wanted, strict=True):
        close(actual, expected)


@given(log=logs(never=False), discount=discounts)
def test_the_estimates_are_those_of_the_paper(log: Log, discount: float) -> None:
    """Rewards of so many steps, then the model, less the control variate of the weights before and with each step."""
    starts = [0, *(i + 1 for i, end in enumerate(log.done.tolist()) if end)]
    ends = [*starts[1:], len(log.done)] if not log.done[-1] else starts[1:]
    episodes = [log.take(torch.arange(a, b)) for a, b in zip(starts, ends, strict=False)]
    n, longest = len(episodes), max(len(each.reward) for each in episodes)
    products = torch.ones(n, longest).double()
    for i, each in enumerate(episodes):
        products[i] = each.log_ratio.cumsum(0).exp()[torch.arange(longest).clamp(max=len(each.reward) - 1)]
    weight = products / products.sum(0)
    sums = []
    for count in range(longest + 1):
        g = 0.0
        for i, each in enumerate(episodes):
            following = torch.where(each.terminated, 0.0, each.next_value)
            value = torch.cat([each.value[:1], following])  # of each step's state, as the last step tells it
            for t in range(min(count, len(each.reward))):
                before = weight[i, t - 1] if t else 1 / n
                g += discount**t * (weight[i, t] * (each.reward[t] - each.q_data[t]) + before * value[t])
                # the model's value of a state is taken by the weights up to the step that led there
            last = min(count, len(each.reward))
            g += discount**last * (weight[i, last - 1] if last else 1 / n) * value[last]
        sums.append(g)
    found = modeled_values(log, discount, range(longest))
    close(found.mean(1), torch.stack([torch.as_tensor(x) for x in sums]))


@given(log=logs(), discount=discounts)
def test_what_is_drawn_again_counts_as_often(log: Log, discount: float) -> None:
    """The estimates of the interval are those of the log that has the drawn episodes one after the other."""
    estimator, drawn = partial(weighted_doubly_robust_value, discount=discount), {"resamples": 9}
    low, high = bootstrap_interval(
        estimator, log._asdict(), generator=torch.Generator().manual_seed(1), level=0.5, **drawn
    )
    log = log._replace(done=sequence_end(log.done))
    found = resampled(modeled(**log._asdict(), discount=discount), torch.Generator().manual_seed(1), **drawn)
    close(torch.stack([low, high]), found.quantile(torch.tensor([0.25, 0.75]).double()), 1e-8)


@given(data=st.data())
def test_the_shares_are_the_best(data: st.DataObject) -> None:
    """None is negative, their sum is one, and no other such shares have a smaller square."""
    size = data.draw(st.integers(1, 6))
    root = data.draw(tensors((size, data.draw(st.integers(1, 6))), -3.0, 3.0))
    error = root @ root.T
    share = mixture(error)
    not_above(torch.zeros_like(share), share)
    close(share.sum(), 1.0)
    slope, scale = error @ share, error.diagonal().max() + 1e-12
    not_above(share @ slope, slope.min() + 1e-8 * scale)
    rest = {"type": "eq", "fun": lambda x: x.sum() - 1}
    matrix = error.numpy()
    other = minimize(lambda x: x @ matrix @ x, np.full(size, 1 / size), bounds=[(0, 1)] * size, constraints=rest)
    not_above(share @ slope, torch.tensor(other.fun).double() + 1e-6 * scale)


@given(log=logs(), discount=discounts)
def test_it_lies_among_what_it_mixes(log: Log, discount: float) -> None:
    """And a model without errors is believed, whatever the ratios."""
    means = modeled_values(log, discount, None).mean(1)
    value = magic(log, discount=discount)[0]
    not_above(means.min(), value)
    not_above(value, means.max())
    following = torch.where(log.terminated, 0.0, log.next_value)
    log = log._replace(q_data=log.reward + discount * following)
    first = torch.cat([torch.tensor([True]), log.done[:-1]])
    close(magic(log, discount=discount)[0], log.value[first].mean())


def test_it_believes_the_better_one() -> None:
    """With the exact model it takes that, whose error is less; a model far off is not believed."""
    log, discount = PROCESS.sample(PROCESS.q), PROCESS.discount
    found = magic(log, discount=discount)
    first = torch.cat([torch.tensor([True]), log.done[:-1]])
    plain = weighted_doubly_robust_value(*log, discount=discount)
    not_above(found[1], plain.standard_error)
    assert abs(found[0] - PROCESS.truth()) < 0.01
    wrong = PROCESS.sample(lambda steps: PROCESS.q(steps) + 50)
    alone = wrong.value[first].mean()
    found = magic(wrong, discount=discount)
    assert abs(found[0] - PROCESS.truth()) < 0.02 * abs(alone - PROCESS.truth())


def test_only_the_generator_draws() -> None:
    """The same seed gives the same number, and no other state moves; rows are one sample, as flat data are."""
    log = PROCESS.sample(PROCESS.q)
    log = log.take(torch.arange(60))._replace(done=torch.arange(60) % 3 == 2)
    state = torch.get_rng_state()
    one, other = (magic(log, level=0.3) for _ in range(2))
    rows = magic(Log(*(x.view(5, 12) for x in log)), level=0.3)
    assert torch.equal(state, torch.get_rng_state())
    for a, b, c in zip(one, other, rows, strict=True):
        assert torch.equal(a, b)
        close(a, c)


def test_one_episode_and_no_gradient() -> None:
    """The error of one is unknown, and its value that of all its steps; nothing flows."""
    one = torch.ones(2, requires_grad=True)
    end = torch.tensor([False, True])
    found = magic(Log(one, one, one, one, 0 * one, end, end), discount=0.5)
    close(found[0], weighted_doubly_robust_value(one, one, one, one, 0 * one, end, end, discount=0.5).value.detach())
    assert found[1] == torch.inf
    assert not any(x.requires_grad for x in found)


def test_bad_input_is_refused() -> None:
    """In the words of the function."""
    one, end = torch.ones(2), torch.tensor([False, True])
    call = partial(magic_value, one, one, one, one, one, end, end)
    generator = torch.Generator()
    with pytest.raises(ValueError, match=r"magic_value: steps: expected an int of at least 0, got -1"):
        call(generator=generator, steps=(-1,))
    with pytest.raises(ValueError, match="magic_value: level"):
        call(generator=generator, level=1.0)
    with pytest.raises(ValueError, match="magic_value: resamples"):
        call(generator=generator, resamples=0)
    with pytest.raises(TypeError, match="magic_value: steps: expected numbers of steps, or None, got 3"):
        call(generator=generator, steps=3)
    with pytest.raises(TypeError, match="magic_value: generator"):
        call(generator=0)
    with pytest.raises(ValueError, match=r"magic_value: q_data: expected shape \[2\]"):
        magic_value(one, one[:1], one, one, one, end, end, generator=generator)


@given(log=logs(never=False), discount=discounts, level=reals(0.1, 0.9))
def test_the_error_of_each_mixture(log: Log, discount: float, level: float) -> None:
    """The covariance of the estimates, and how far they lie outside of an interval that holds the last of them."""
    knobs = {"resamples": 3, "level": level}
    returns = modeled_values(log, discount, None)
    mean, n = returns.mean(1).numpy(), returns.shape[1]
    low, high = bootstrap_interval(
        partial(weighted_doubly_robust_value, discount=discount),
        log._asdict(),
        generator=torch.Generator().manual_seed(0),
        **knobs,
    )
    low, high = min(float(low), mean[-1]), max(float(high), mean[-1])
    outside = np.where(mean < low, low - mean, np.where(mean > high, mean - high, 0.0))
    covariance = np.cov(returns.numpy()) if n > 1 else 0.0
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "mixture", lambda error: seen.append(error) or mixture(error))
        value, error, _ = magic(log, discount=discount, **knobs)
    close(seen[0], covariance / n + np.outer(outside, outside))
    mixed = mixture(seen[0]) @ returns
    close(value, mixed.mean())
    close(error, mixed.std() / n**0.5 if n > 1 else torch.inf, 1e-7)


def test_the_defaults() -> None:
    """Two hundred resamples at level 0.5, a discount of 0.99, and as many steps as powers of two say."""
    end = torch.arange(40) % 4 == 3
    log = Log(*(torch.randn(40).double() for _ in range(5)), end, end)
    given: list[tuple[int, float]] = []

    def interval(estimates: Tensor, level: float) -> tuple[Tensor, Tensor]:
        given.append((len(estimates), level))
        return estimates.amin(), estimates.amax()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "quantiles", interval)
        plain = partial(magic_value, *log, generator=torch.Generator(), steps=())
        found, wanted = plain(), plain(discount=0.99)
    assert found == wanted
    assert given == [(200, 0.5)] * 2
    for longest, steps in ((4, [0, 1, 2]), (5, [0, 1, 2, 4]), (9, [0, 1, 2, 4, 8])):
        done = torch.arange(18) % longest == longest - 1
        episodes = Log(*(torch.randn(18).double() for _ in range(5)), done, done)
        found, wanted = (modeled_values(episodes, 0.9, each) for each in (None, steps))
        assert torch.equal(found, wanted)
        assert len(found) == len(steps) + 1
    assert magic(log, resamples=1, level=0.9)[0].isfinite()


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_the_shares_have_no_unit(scale: float) -> None:
    """Two estimates share by their errors, and a third is left out that is no better than both."""
    error = scale * torch.tensor([[1.0, 0.0, 1.0], [0.0, 3.0, 1.0], [1.0, 1.0, 4.0]], dtype=torch.float64)
    close(mixture(error), torch.tensor([0.75, 0.25, 0.0], dtype=torch.float64))
    close(mixture(0 * error).sum(), 1.0)


def test_estimates_that_come_into_use_may_go_out_of_it() -> None:
    """Few dimensions and many estimates: the shares are the best, each estimate in use has the least slope."""
    for seed, size, dimensions, offset in [(8, 20, 2, 2.0), (11, 12, 2, 0.5), (14, 20, 8, 0.0), (16, 20, 8, 0.0)]:
        generator = torch.Generator().manual_seed(seed)
        root = torch.randn(size, dimensions, generator=generator, dtype=torch.float64) + offset
        error = root @ root.T
        share = mixture(error)
        slope = error @ share
        not_above(torch.zeros_like(share), share)
        close(share.sum(), 1.0)
        not_above(share @ slope, slope.min() + 1e-9)
        close(slope[share > 1e-9], (share @ slope).expand(int((share > 1e-9).sum())), 1e-7)
