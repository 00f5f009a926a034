"""Identities of what is made of parts: the whole, whatever the parts, their order, and the size of their numbers."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from comparison import close
from hypothesis import given
from strategies import masks, tensors
from torch import Tensor

from offline_losses import (
    episode_return,
    merged_moments,
    moment_statistics,
    observation_moments,
    observation_statistics,
    return_filter,
    return_threshold,
)

SPLITS = 1000


def split_at_random(x: Tensor, parts: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Moments `[parts, SPLITS, ...]` of many ways to deal out the rows, parts without any among them."""
    dealt = torch.randint(0, parts, (SPLITS, len(x)), generator=torch.Generator().manual_seed(seed))
    moments = torch.func.vmap(torch.func.vmap(lambda mask: observation_moments(x, mask=mask)))(
        dealt == torch.arange(parts).view(-1, 1, 1)
    )
    return moments.samples, moments.mean, moments.squared_deviation


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_a_thousand_splits_are_the_whole(dtype: torch.dtype, tolerance: float, offset: float) -> None:
    """Beside float64 of all rows at once, also where the mean is a thousand deviations away from zero."""
    x = offset + torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x.to(dtype).double()  # what float32 has of it
    merged = merged_moments(*split_at_random(x.to(dtype), 7, 1))
    assert (merged.samples == 64).all()
    torch.testing.assert_close(merged.mean.double(), x.mean(0).expand(SPLITS, 3), rtol=1e-6, atol=tolerance)
    expected = (x - x.mean(0)).square().sum(0).expand(SPLITS, 3)
    torch.testing.assert_close(merged.squared_deviation.double(), expected, rtol=20 * tolerance, atol=0)
    mean, std = moment_statistics(*merged)
    whole = observation_statistics(x)
    torch.testing.assert_close(mean.double(), whole.mean.expand(SPLITS, 3), rtol=1e-6, atol=tolerance)
    torch.testing.assert_close(std.double(), whole.std.expand(SPLITS, 3), rtol=20 * tolerance, atol=0)


@given(data=st.data())
def test_any_order_and_any_grouping(data: st.DataObject) -> None:
    """Merged two at a time, from either end, or all at once; a part without samples changes nothing."""
    x = data.draw(tensors((9, 2)))
    mask = data.draw(masks((9,)))
    parts = [observation_moments(y, mask=m) for y, m in zip(x.split(3), mask.split(3), strict=True)]
    nothing = observation_moments(x[:0])
    at_once = merged_moments(*map(torch.stack, zip(*parts, nothing, strict=True)))
    for a, b, c in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        two = merged_moments(*map(torch.stack, zip(parts[a], parts[b], strict=True)))
        three = merged_moments(*map(torch.stack, zip(two, parts[c], strict=True)))
        for one, other in zip(three, at_once, strict=True):
            close(one, other)
    for one, other in zip(at_once, observation_moments(x, mask=mask), strict=True):
        close(one, other)
    for one, other in zip(moment_statistics(*at_once), observation_statistics(x, mask=mask), strict=True):
        close(one, other)


def test_a_part_of_nothing_may_say_anything() -> None:
    """Whoever makes the mean of no samples by a division has NaN, which changes neither the others nor a gradient."""
    samples, none = torch.tensor([0.0, 2.0]), torch.zeros(2)
    moments = [x.requires_grad_() for x in (torch.tensor([[math.nan], [1.0]]), torch.tensor([[math.nan], [2.0]]))]
    merged = merged_moments(samples, *moments)
    assert [x.tolist() for x in merged] == [2.0, [1.0], [2.0]]
    assert all(
        x.isfinite().all() for x in torch.autograd.grad(merged.mean.sum() + merged.squared_deviation.sum(), moments)
    )
    nothing = [x for each in (merged_moments(none, *moments), moment_statistics(none, *moments)) for x in each]
    assert all((x == 0).all() for x in nothing)


def test_nothing_has_moments_of_zero() -> None:
    """And statistics of zero, with finite slopes."""
    x = torch.zeros(0, 2, requires_grad=True)
    moments = observation_moments(x)
    merged = merged_moments(*(torch.stack([y, y]).requires_grad_() for y in moments))
    statistics = moment_statistics(*merged)
    for result in (*moments, *merged, *statistics):
        assert (result == 0).all()
    sum(result.sum() for result in statistics).backward()
    assert x.grad is not None


@given(data=st.data(), by=st.sampled_from(["episodes", "steps"]), fraction=st.floats(0.01, 1.0))
def test_the_threshold_keeps_what_the_filter_keeps(data: st.DataObject, by: str, fraction: float) -> None:
    """Whoever holds the episodes, and with ties: each selects by its return and its place in the table."""
    reward = data.draw(st.lists(st.sampled_from([0.0, 1.0, math.nan]), min_size=1, max_size=12).map(torch.tensor))
    done = data.draw(masks(reward.shape))
    done[-1] = True
    last = done.nonzero().squeeze(-1)
    returns = episode_return(reward, done)[last]
    length = torch.diff(last, prepend=last.new_tensor([-1]))
    value, episode = return_threshold(returns, length, fraction=fraction, by=by)  # type: ignore[arg-type]
    kept = torch.zeros(len(last), dtype=torch.bool)
    for rank in range(3):
        place = torch.arange(len(last))[rank::3]  # dealt out in turn
        mine = returns[place].nan_to_num(-math.inf)
        kept[place] = (mine > value) | ((mine == value) & (place <= episode))
    expected = return_filter(reward, done, fraction=fraction, by=by)  # type: ignore[arg-type]
    assert torch.equal(kept.repeat_interleave(length), expected)


def test_the_best_is_always_kept() -> None:
    """However long it is."""
    value, episode = return_threshold(torch.tensor([1.0, 3.0, 3.0]), torch.tensor([1, 50, 1]), fraction=0.1, by="steps")
    assert (float(value), int(episode)) == (3.0, 1)


def test_images_are_no_observations() -> None:
    """The last of their axes is no list of dimensions."""
    with pytest.raises(ValueError, match=r"observation_moments: observation: expected shape .+ at most three axes"):
        observation_moments(torch.ones(2, 3, 4, 4))


def test_parts_and_episodes_are_needed() -> None:
    """Of none there are no moments and no best."""
    with pytest.raises(ValueError, match="merged_moments: samples: expected a first axis of at least one part"):
        merged_moments(torch.ones(0), torch.ones(0, 2), torch.ones(0, 2))
    with pytest.raises(
        ValueError, match="return_threshold: episode_return: expected a last axis of at least one episode"
    ):
        return_threshold(torch.ones(0), torch.ones(0).long(), fraction=0.5)


def test_a_threshold_carries_no_gradient() -> None:
    """It is one of the returns, and selects."""
    value, episode = return_threshold(torch.ones(3, requires_grad=True), torch.ones(3).long(), fraction=0.5)
    assert not value.requires_grad
    assert int(episode) == 1
