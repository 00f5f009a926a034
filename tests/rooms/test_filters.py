"""The laws of the whole-dataset selections: whole episodes, the stated share, the stated order."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from comparison import close, gradients
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from strategies import Episodes, batches, distinct, episodes, fractions, lengths, masks, reals, tensors, trajectories
from torch import Tensor, library

from benchmarks.timing import peak_bytes
from offline_losses import (
    discounted_return,
    episode_return,
    normalize_observation,
    observation_statistics,
    return_filter,
    reward_scale,
)
from offline_losses._core import pieces, scan
from offline_losses._core.episodes import _scattered_in_order, _sum_by_scatter, _sum_by_segments, sequence_start
from offline_losses._core.pieces import BLOCK
from offline_losses._core.tracing import tracing

NAN = float("nan")
BOTH = ["episodes", "steps"]
by_each = pytest.mark.parametrize("by", BOTH)


def ends_of(steps: tuple[int, ...]) -> Tensor:
    done = torch.zeros(sum(steps), dtype=torch.bool)
    done[torch.tensor(steps).cumsum(0) - 1] = True
    return done


@st.composite
def ranked(draw: st.DrawFn, ties: bool) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Rewards in halves, so that every undiscounted sum is exact; with ties, or with none."""
    steps = draw(lengths(8, 6))
    count = len(steps)
    few = st.lists(st.integers(-2, 2), min_size=count, max_size=count)
    totals = draw(few if ties else st.permutations(range(count)))
    parts = []
    for count, total in zip(steps, totals, strict=True):
        reward = torch.tensor([draw(st.integers(-4, 4)) / 2 for _ in range(count)])
        reward[-1] += total - reward.sum()
        parts.append(reward)
    return torch.cat(parts).double(), ends_of(steps), steps


@by_each
@given(data=st.data(), fraction=fractions)
def test_equals_the_loop_over_episodes(by: str, data: st.DataObject, fraction: float) -> None:
    """The same steps as a Python loop that walks the dataset episode by episode, ties included."""
    reward, done, _ = data.draw(ranked(ties=True))
    wanted = ORACLES["return_filter"](reward.numpy(), done.numpy(), fraction=fraction, by=by)
    got = return_filter(reward, done, fraction=fraction, by=by)
    assert got.dtype == torch.bool
    assert got.tolist() == wanted.tolist()


@by_each
@given(data=st.data(), fraction=fractions)
def test_equals_the_loop_with_a_discount(by: str, data: st.DataObject, fraction: float) -> None:
    """The same with discounted returns, in any batch shape, without a flag on the last step."""
    shape = (*data.draw(batches(0, 1, 1, 3)), data.draw(st.integers(1, 10)))
    reward = data.draw(distinct(shape))
    done = data.draw(masks(shape))
    knobs = {"fraction": fraction, "discount": 0.9, "by": by}
    wanted = ORACLES["return_filter"](reward.numpy(), done.numpy(), **knobs)
    assert return_filter(reward, done, **knobs).tolist() == wanted.tolist()


@by_each
@given(data=st.data(), fraction=fractions)
def test_keeps_whole_episodes(by: str, data: st.DataObject, fraction: float) -> None:
    """No episode is split, and no kept episode is worse than a dropped one."""
    reward, done, steps = data.draw(ranked(ties=True))
    kept = return_filter(reward, done, fraction=fraction, by=by).split(steps)
    assert all(bool((part == part[0]).all()) for part in kept)
    totals = [float(part.sum()) for part in reward.split(steps)]
    chosen = [bool(part[0]) for part in kept]
    inside = [total for total, keep in zip(totals, chosen, strict=True) if keep]
    outside = [total for total, keep in zip(totals, chosen, strict=True) if not keep]
    assert min(inside) >= max(outside, default=-math.inf)


@given(data=st.data(), fraction=fractions)
def test_the_share_of_the_episodes(data: st.DataObject, fraction: float) -> None:
    """by="episodes" keeps max(1, floor(fraction n + 1/2)) of n episodes: never none, half goes up."""
    reward, done, steps = data.draw(ranked(ties=True))
    kept = return_filter(reward, done, fraction=fraction).split(steps)
    wanted = max(1, math.floor(fraction * len(steps) + 0.5))
    assert sum(bool(part[0]) for part in kept) == wanted


@given(data=st.data(), fraction=fractions)
def test_the_share_of_the_steps(data: st.DataObject, fraction: float) -> None:
    """by="steps" stays within its budget unless the best episode alone breaks it, and stops there.

    The next best episode would not have fitted.
    """
    reward, done, steps = data.draw(ranked(ties=False))
    kept = [bool(part[0]) for part in return_filter(reward, done, fraction=fraction, by="steps").split(steps)]
    budget = math.floor(fraction * sum(steps) + 0.5)
    used = sum(count for count, keep in zip(steps, kept, strict=True) if keep)
    assert sum(kept) == 1 or used <= budget
    totals = [float(part.sum()) for part in reward.split(steps)]
    left = [(total, count) for total, count, keep in zip(totals, steps, kept, strict=True) if not keep]
    if left:
        assert used + max(left)[1] > budget


@by_each
@given(data=st.data())
def test_everything_and_the_best(by: str, data: st.DataObject) -> None:
    """fraction = 1 keeps every step; a tiny fraction keeps the one best episode."""
    reward, done, steps = data.draw(ranked(ties=False))
    assert bool(return_filter(reward, done, fraction=1.0, by=by).all())
    best = return_filter(reward, done, fraction=1e-9, by=by).split(steps)
    totals = [float(part.sum()) for part in reward.split(steps)]
    assert [bool(part[0]) for part in best] == [total == max(totals) for total in totals]


@by_each
@given(data=st.data())
def test_a_larger_fraction_keeps_more(by: str, data: st.DataObject) -> None:
    """Selections are nested: what a small fraction keeps, a larger one keeps too."""
    reward, done, _ = data.draw(ranked(ties=True))
    low, high = sorted([data.draw(fractions), data.draw(fractions)])
    few = return_filter(reward, done, fraction=low, by=by)
    assert bool(return_filter(reward, done, fraction=high, by=by)[few].all())


@by_each
@given(data=st.data(), fraction=fractions)
def test_the_order_of_the_episodes(by: str, data: st.DataObject, fraction: float) -> None:
    """Without ties, shuffling the episodes shuffles the selection and changes nothing else."""
    reward, done, steps = data.draw(ranked(ties=False))
    order = data.draw(st.permutations(range(len(steps))))
    kept = return_filter(reward, done, fraction=fraction, by=by).split(steps)
    rewards, ends = reward.split(steps), done.split(steps)
    shuffled = return_filter(
        torch.cat([rewards[e] for e in order]),
        torch.cat([ends[e] for e in order]),
        fraction=fraction,
        by=by,
    )
    assert shuffled.tolist() == torch.cat([kept[e] for e in order]).tolist()


@by_each
@given(steps=lengths(8, 6), data=st.data())
def test_of_equals_the_earlier_comes_first(by: str, steps: tuple[int, ...], data: st.DataObject) -> None:
    """All returns equal: the kept episodes are a prefix of the dataset."""
    reward = torch.zeros(sum(steps), dtype=torch.float64)
    kept = return_filter(reward, ends_of(steps), fraction=data.draw(fractions), by=by)
    assert kept.tolist() == sorted(kept.tolist(), reverse=True)


@pytest.mark.parametrize("discount", [1.0, 0.99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_episodes_tie(dtype: torch.dtype, discount: float) -> None:
    """Copies of one episode tie exactly wherever they stand, so the first of them are kept."""
    generator = torch.Generator().manual_seed(0)
    episode = torch.randn(17, generator=generator, dtype=dtype)
    pieces, marks = [], []
    for k in range(40):
        worse = torch.full((1 + k % 7,), -100.0, dtype=dtype)
        pieces += [worse, episode]
        marks += [len(worse), len(episode)]
    reward, done = torch.cat(pieces), ends_of(tuple(marks))
    kept = return_filter(reward, done, fraction=10 / 80, discount=discount).split(marks)
    assert [bool(part[0]) for part in kept[1::2]] == [k < 10 for k in range(40)]


@by_each
@given(data=st.data(), fraction=fractions)
def test_an_episode_with_nan_ranks_last(by: str, data: st.DataObject, fraction: float) -> None:
    """NaN spoils its own episode alone: it goes behind the worst one."""
    reward, done, steps = data.draw(ranked(ties=False))
    spoiled = data.draw(st.integers(0, len(steps) - 1))
    at = sum(steps[:spoiled]) + data.draw(st.integers(0, steps[spoiled] - 1))
    dirty, bottom = reward.clone(), reward.clone()
    dirty[at] = NAN
    bottom[at] = -1e6
    got = return_filter(dirty, done, fraction=fraction, by=by)
    assert got.tolist() == return_filter(bottom, done, fraction=fraction, by=by).tolist()


@by_each
@given(data=st.data(), fraction=fractions, c=st.sampled_from([0.25, 2.0, 8.0]))
def test_only_the_ranks_matter(by: str, data: st.DataObject, fraction: float, c: float) -> None:
    """A positive factor on all rewards changes no selection; a negative one turns the ranks over."""
    reward, done, steps = data.draw(ranked(ties=False))
    kept = return_filter(reward, done, fraction=fraction, by=by)
    assert return_filter(c * reward, done, fraction=fraction, by=by).tolist() == kept.tolist()
    worst = return_filter(-c * reward, done, fraction=1e-9, by=by).split(steps)
    totals = [float(part.sum()) for part in reward.split(steps)]
    assert [bool(part[0]) for part in worst] == [total == min(totals) for total in totals]


@by_each
@given(data=st.data(), fraction=fractions)
def test_rows_are_one_dataset(by: str, data: st.DataObject, fraction: float) -> None:
    """[*batch, T] ranks the episodes of all rows together, and the end of a row ends an episode."""
    rows, steps = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    reward = data.draw(distinct((rows, steps)))
    done = data.draw(masks((rows, steps)))
    flat_done = done.clone()
    flat_done[:, -1] = True
    flat = return_filter(reward.flatten(), flat_done.flatten(), fraction=fraction, by=by)
    got = return_filter(reward, done, fraction=fraction, by=by)
    assert got.tolist() == flat.reshape(rows, steps).tolist()


def test_a_discount_prefers_early_rewards() -> None:
    """Two episodes of equal sum: the discount keeps the one that is paid first."""
    reward = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    done = torch.tensor([False, False, True, False, False, True])
    late = [True] * 3 + [False] * 3
    assert return_filter(reward, done, fraction=0.5).tolist() == late
    early = return_filter(reward, done, fraction=0.5, discount=0.9)
    assert early.tolist() == [not x for x in late]


def test_the_defaults() -> None:
    """Undiscounted returns, a share of the episodes."""
    reward = torch.tensor([0.0, 0.0, 1.0, 0.9, 0.5], dtype=torch.float64)
    done = torch.tensor([False, False, True, True, True])
    close(episode_return(reward, done), torch.tensor([1.0, 1.0, 1.0, 0.9, 0.5], dtype=torch.float64))
    assert return_filter(reward, done, fraction=0.34).tolist() == [True] * 3 + [False] * 2
    assert return_filter(reward, done, fraction=2 / 3).tolist() == [True] * 4 + [False]
    close(reward_scale(reward, done), 2000.0)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1])
def test_the_fraction_is_a_share(fraction: float) -> None:
    """0 < fraction <= 1; an unknown unit is an error."""
    reward, done = torch.zeros(3), torch.tensor([False, False, True])
    with pytest.raises(ValueError, match="fraction"):
        return_filter(reward, done, fraction=fraction)
    with pytest.raises(ValueError, match="by"):
        return_filter(reward, done, fraction=0.5, by="transitions")


# Returns of whole episodes.


@given(data=st.data(), discount=st.sampled_from([1.0, 0.9]))
def test_each_step_carries_its_episode(data: st.DataObject, discount: float) -> None:
    """Every step has the return of the first step of its episode."""
    x = data.draw(episodes(last_done=False))
    got = episode_return(x.reward, x.done, discount=discount)
    wanted = ORACLES["episode_return"](x.reward.numpy(), x.done.numpy(), discount=discount)
    close(got, wanted)
    first = discounted_return(x.reward, x.done, discount=discount).split(x.lengths)
    for part, to_go in zip(got.split(x.lengths), first, strict=True):
        close(part, float(to_go[0]))


@given(x=episodes())
def test_an_episode_is_not_touched_by_another(x: Episodes) -> None:
    """Neither NaN nor a huge reward in one episode changes the last digit of another's return."""
    clean = episode_return(x.reward, x.done).split(x.lengths)
    for spoil in (NAN, 1e30):
        for e, count in enumerate(x.lengths):
            dirty = [part.clone() for part in x.reward.split(x.lengths)]
            dirty[e][count // 2] = spoil
            got = episode_return(torch.cat(dirty), x.done).split(x.lengths)
            for other, (now, before) in enumerate(zip(got, clean, strict=True)):
                if other != e:
                    close(now, before, 1e-12)
                elif math.isnan(spoil):
                    assert bool(now.isnan().all())


@given(x=episodes(), discount=st.sampled_from([1.0, 0.9]))
def test_the_gradient_of_an_episode_return(x: Episodes, discount: float) -> None:
    """d (return at one step) / d r_k is discount^k inside the episode and 0 outside."""
    at = len(x.reward) // 2
    (slope,) = gradients(lambda r: episode_return(r, x.done, discount=discount)[at], x.reward)
    start = 0
    for count in x.lengths:
        inside = slope[start : start + count]
        if start <= at < start + count:
            close(inside, discount ** torch.arange(count, dtype=torch.float64))
        else:
            assert bool((inside == 0).all())
        start += count


@given(data=st.data(), discount=st.sampled_from([1.0, 0.9]))
def test_scaled_returns_span_the_horizon(data: st.DataObject, discount: float) -> None:
    """After scaling, best minus worst return is the horizon."""
    x = data.draw(episodes())
    horizon = data.draw(reals(1.0, 1000.0))
    scale = reward_scale(x.reward, x.done, horizon=horizon, discount=discount)
    assert scale.dim() == 0
    returns = episode_return(x.reward, x.done, discount=discount)
    span = float(returns.max() - returns.min())
    if span == 0:
        close(scale, 1.0)
    elif span > 1e-6:
        scaled = episode_return(scale * x.reward, x.done, discount=discount)
        close(scaled.max() - scaled.min(), horizon, 1e-6)
        close(reward_scale(4 * x.reward, x.done, horizon=horizon, discount=discount), scale / 4)


def test_the_scale_of_equal_returns_is_one() -> None:
    """One episode, or equal ones, have no range: the reward is left as it is. The horizon is 1000."""
    done = torch.tensor([False, True, False, True])
    close(reward_scale(torch.ones(2, dtype=torch.float64), done[:2]), 1.0)
    close(reward_scale(torch.ones(4, dtype=torch.float64), done), 1.0)
    close(reward_scale(torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64), done), 500.0)


# Observation statistics.


@given(data=st.data())
def test_statistics_follow_the_paper(data: st.DataObject) -> None:
    """Mean and population deviation over all leading axes, existing rows only."""
    shape = data.draw(batches(1, 2))
    observation = data.draw(tensors((*shape, 3)))
    mask = data.draw(st.none() | masks(shape))
    got = observation_statistics(observation, mask=mask)
    wanted = ORACLES["observation_statistics"](observation.numpy(), mask=None if mask is None else mask.numpy())
    if mask is None or bool(mask.any()):
        close(got.mean, wanted[0])
        close(got.std, wanted[1], 1e-7)
    else:
        assert bool(got.mean.isfinite().all())
        assert bool(got.std.isfinite().all())


@given(data=st.data())
def test_normalized_observations_are_standard(data: st.DataObject) -> None:
    """Mean 0 and deviation 1 after normalizing with a tiny epsilon; the map can be undone."""
    observation = data.draw(distinct((data.draw(st.integers(2, 8)), 3)))
    mean, std = observation_statistics(observation)
    standard = normalize_observation(observation, mean, std, epsilon=1e-12)
    again = observation_statistics(standard)
    close(again.mean, 0.0)
    close(again.std, 1.0)
    epsilon = data.draw(reals(0.001, 1.0))
    got = normalize_observation(observation, mean, std, epsilon=epsilon)
    close(got * (std + epsilon) + mean, observation)
    wanted = ORACLES["normalize_observation"](observation.numpy(), mean.numpy(), std.numpy(), epsilon=epsilon)
    close(got, wanted)


@given(data=st.data(), c=st.sampled_from([-3.0, 0.5, 2.0]), shift=reals())
def test_statistics_move_with_the_units(data: st.DataObject, c: float, shift: float) -> None:
    """Of c s + shift: mean c mean + shift, deviation |c| std."""
    observation = data.draw(tensors((data.draw(st.integers(1, 8)), 2)))
    mean, std = observation_statistics(observation)
    moved = observation_statistics(c * observation + shift)
    close(moved.mean, c * mean + shift)
    close(moved.std, abs(c) * std, 1e-7)


@given(data=st.data())
def test_masked_observations_do_not_exist(data: st.DataObject) -> None:
    """A masked row, NaN included, changes neither statistic; copies of the data change neither."""
    count = data.draw(st.integers(1, 6))
    observation, mask = data.draw(tensors((count, 2))), data.draw(masks((count,)))
    mask[data.draw(st.integers(0, count - 1))] = True
    hidden = torch.where(mask[:, None], observation, NAN)
    got = observation_statistics(hidden, mask=mask)
    kept = observation_statistics(observation[mask])
    close(got.mean, kept.mean)
    close(got.std, kept.std, 1e-7)
    twice = observation_statistics(observation[mask].repeat(2, 1))
    close(twice.mean, kept.mean)
    close(twice.std, kept.std, 1e-7)


def test_a_large_offset_does_not_eat_the_deviation() -> None:
    """float32 features around 10 000 with deviation 1: the two-pass value, not E[s^2] - E[s]^2."""
    noise = np.random.default_rng(0).standard_normal((10_000, 2)).astype(np.float32) + 10_000
    got = observation_statistics(torch.from_numpy(noise))
    exact = noise.astype(np.float64).std(axis=0)
    close(got.std.double(), exact, 1e-3)


def test_a_constant_feature_is_not_blown_up() -> None:
    """A feature that never changes has deviation 0 and normalizes to 0, not to NaN."""
    observation = torch.full((5, 1), 0.1, dtype=torch.float64)
    mean, std = observation_statistics(observation)
    close(std, 0.0)
    close(normalize_observation(observation, mean, std), 0.0)


@by_each
@given(data=st.data(), fraction=fractions, discount=st.sampled_from([1.0, 0.9, 0.0]), ties=st.booleans())
def test_sorting_episodes_equals_sorting_steps(
    by: str, data: st.DataObject, fraction: float, discount: float, ties: bool
) -> None:
    """The operator of compiled code selects the same steps, with ties, discount, and returns that are NaN."""
    reward, done, steps = data.draw(ranked(ties))
    if data.draw(st.booleans()):
        reward[data.draw(st.integers(0, len(reward) - 1))] = NAN
    if data.draw(st.booleans()):
        done[-1] = False
    with tracing():
        kept = return_filter(reward, done, fraction=fraction, discount=discount, by=by)
    assert kept.equal(return_filter(reward, done, fraction=fraction, discount=discount, by=by)), steps


@pytest.mark.parametrize("function", [episode_return, reward_scale])
@given(data=st.data(), block=st.sampled_from([3, BLOCK]), discount=st.sampled_from([1.0, 0.9, 0.0]))
def test_pieces_equal_scattered_sums(
    function: Callable[..., Tensor], data: st.DataObject, block: int, discount: float
) -> None:
    """Compiled code takes the episodes one by one: the same values and gradients, for rows and a flat dataset."""
    reward, done, _ = data.draw(ranked(ties=False))
    reward, done = reward.double(), done.clone()
    done[-1] = data.draw(st.booleans())
    weight = data.draw(tensors(tuple(reward.shape)))
    for shape in (reward.shape, (1, -1), *([(2, -1)] if len(reward) % 2 == 0 else [])):
        arguments = reward.view(shape), done.view(shape)
        expected = weighted(function, *arguments, weight, discount)
        with tracing(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(pieces, "BLOCK", block)
            actual = weighted(function, *arguments, weight, discount)
        for one, other in zip(actual, expected, strict=True):
            close(one, other)


@pytest.mark.parametrize("function", [episode_return, reward_scale])
@given(data=st.data(), block=st.sampled_from([3, BLOCK]), discount=st.sampled_from([1.0, 0.9, 0.0]))
def test_many_steps_are_no_other_than_few(
    function: Callable[..., Tensor], data: st.DataObject, block: int, discount: float
) -> None:
    """Many are summed up by episodes, in blocks: the same values, for rows and a flat dataset, NaN and infinity too."""
    reward, done, _ = data.draw(ranked(ties=data.draw(st.booleans())))
    reward[data.draw(st.integers(0, len(reward) - 1))] = data.draw(st.sampled_from([1.0, NAN, math.inf]))
    done[-1] = data.draw(st.booleans())
    for shape in (reward.shape, (1, -1), *([(2, -1)] if len(reward) % 2 == 0 else [])):
        arguments = reward.view(shape), done.view(shape)
        few = function(*arguments, discount=discount)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pieces, "MANY", 1)
            patch.setattr(pieces, "BLOCK", block)
            many = function(*arguments, discount=discount)
        torch.testing.assert_close(many, few, rtol=1e-9, atol=1e-9, equal_nan=True)


LARGE = {
    "discounted_return": (lambda reward, done: discounted_return(reward, done), 6),
    "episode_return": (lambda reward, done: episode_return(reward, done, discount=0.99), 14),
    "return_filter": (lambda reward, done: return_filter(reward, done, fraction=0.1), 3),
    "reward_scale": (lambda reward, done: reward_scale(reward, done), 2),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_dataset_takes_little_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of each step at the peak, of a million in episodes of 200."""
    for module in (pieces, scan):
        monkeypatch.setattr(module, "BLOCK", 2**13)
    function, most = LARGE[name]
    reward, done = torch.ones(1_000_000), torch.arange(1_000_000) % 200 == 199
    assert peak_bytes(lambda: [function(reward, done)], reward.device) < most * len(reward)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", LARGE)
def test_many_steps_under_a_map(name: str) -> None:
    function, _ = LARGE[name]
    reward, done = torch.randn(2, pieces.MANY), torch.arange(pieces.MANY) % 200 == 199
    mapped = torch.vmap(lambda row: function(row, done))(reward)
    close(mapped, torch.stack([function(row, done) for row in reward]), 1e-5)


def weighted(
    function: Callable[..., Tensor], reward: Tensor, done: Tensor, weight: Tensor, discount: float
) -> list[Tensor]:
    """The value and its gradient, each element of it weighted."""
    x = reward.clone().requires_grad_()
    value = function(x, done, discount=discount)
    return [value.detach(), *torch.autograd.grad(value, x, weight.view(value.shape) if value.dim() else None)]


def test_the_discount_of_episodes_has_a_gradient_in_compiled_code() -> None:
    """Pieces know none by the discount, so that sums are scattered where it is wanted."""
    reward, done = torch.rand(12, dtype=torch.float64), torch.tensor([False, False, False, True] * 3)
    discount = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    with tracing():
        (slope,) = torch.autograd.grad(episode_return(reward, done, discount=discount).sum(), discount)
    steps = torch.arange(4, dtype=torch.float64)
    close(slope, (4 * reward.view(3, 4) * steps * 0.9 ** (steps - 1).clamp(min=0)).sum())


def test_flags_may_lie_anywhere() -> None:
    """Compiled code reads eight flags at a time, from a slice that starts at any byte."""
    done = torch.rand(49) < 0.3
    done[-1] = True
    for start in range(10):
        reward = torch.rand(49 - start)
        with tracing():
            kept = return_filter(reward, done[start:], fraction=0.5)
        assert kept.equal(return_filter(reward, done[start:], fraction=0.5))


@pytest.mark.parametrize("fraction", [0.7, 0.9])
def test_a_share_is_no_other_in_compiled_code(fraction: float) -> None:
    """Of 5, 15, ... episodes and a fraction in single precision, which is a little less than it looks."""
    for count in range(5, 50, 5):
        reward, done = torch.rand(count), torch.ones(count, dtype=torch.bool)
        with tracing():
            kept = return_filter(reward, done, fraction=torch.tensor(fraction))
        assert kept.equal(return_filter(reward, done, fraction=torch.tensor(fraction)))


def test_equal_episodes_tie_wherever_they_lie() -> None:
    """In compiled code rewards are added up in blocks: the same sum stands in another block."""
    episode = torch.zeros(26)
    episode[-1] = -1.0
    first = BLOCK // len(episode) + 1
    reward = torch.cat([episode.repeat(first), torch.zeros(32), episode.repeat(3)])
    done = torch.zeros(len(reward), dtype=torch.bool)
    ends = torch.tensor([len(episode)] * first + [32] + [len(episode)] * 3).cumsum(0) - 1
    done[ends] = True
    with tracing():
        kept = return_filter(reward, done, fraction=4 / len(ends), discount=0.99)
        total = episode_return(reward.double(), done, discount=0.99)[ends]
    assert kept[ends].nonzero().flatten().tolist() == [0, 1, 2, first]  # the longer one is best, then the earliest
    assert total.unique().tolist() == [total[0], 0.0]


@pytest.mark.parametrize("transposed", [False, True])
def test_sums_of_steps_are_sums_of_pieces(transposed: bool) -> None:
    """What a card adds up and what the CPU does; and the sums that a card's operator makes of several rows."""
    x, done = torch.randn(3, 40), torch.rand(3, 40) < 0.2
    done[:, -1] = True
    factor = torch.tensor(0.9).double()
    close(*(kind(x, done, factor, transposed) for kind in (_sum_by_scatter, _sum_by_segments)))
    first_step = torch.where(sequence_start(done), torch.arange(40), 0).cummax(-1).values
    expected = torch.zeros(3, 40).double()
    for row in range(3):
        for step in range(40):
            expected[row, first_step[row, step]] += x[row, step].double()
    close(_scattered_in_order(x.double(), first_step), expected)


def test_the_operator_is_registered_soundly() -> None:
    """Schema, shapes without values and tracing, as PyTorch checks them; and mapped over a row of datasets."""
    reward, done = torch.randn(2, 30), torch.rand(2, 30) < 0.3
    done[:, -1] = True
    share, factor = torch.tensor(0.5).double(), torch.tensor(1.0).double()
    select = torch.ops.offline_losses.best_episodes
    library.opcheck(select.default, (reward[0], done[0], share, factor, "steps"))
    mapped = torch.vmap(lambda r, d: select(r, d, share, factor, "episodes"))(reward, done)
    for row in range(2):
        assert mapped[row].equal(return_filter(reward[row], done[row], fraction=0.5))
    add = torch.ops.offline_losses.episode_sum
    for transposed in (False, True):
        library.opcheck(add.default, (reward.clone().requires_grad_(), done, factor, transposed))
        assert torch.autograd.gradcheck(
            lambda x, t=transposed: add(x, done, factor * 0.9, t), (reward.double().requires_grad_(),)
        )
    totals = torch.vmap(lambda r, d: add(r, d, factor, False))(reward, done)
    close(totals, add(reward, done, factor, False))


@given(data=st.data())
def test_an_episode_return_with_a_discount_for_each_step(data: st.DataObject) -> None:
    """The products of the discounts take the place of the powers; on the first step it is the discounted return."""
    x = data.draw(trajectories())
    discount = data.draw(tensors(tuple(x.reward.shape), 0.0, 1.0))
    got = episode_return(x.reward, x.done, discount=discount)
    close(got, ORACLES["episode_return"](x.reward.numpy(), x.done.numpy(), discount=discount.numpy()))
    first = torch.nn.functional.pad(x.done[..., :-1], (1, 0), value=True)
    close(got[first], discounted_return(x.reward, x.done, discount=discount)[first])
    with pytest.raises(ValueError, match="return_filter: discount: expected shape"):
        return_filter(x.reward, x.done, fraction=0.5, discount=discount)


def test_images_are_not_rows_of_dimensions() -> None:
    """A number for each image column is nobody's statistic; for each pixel or channel it is one call away."""
    images = torch.rand(8, 3, 5, 4)
    with pytest.raises(ValueError, match=r"observation_statistics: observation: .+got shape \[8, 3, 5, 4\].+flatten"):
        observation_statistics(images)
    close(observation_statistics(images.flatten(1)).mean.view(3, 5, 4), images.mean(0), 1e-6)
    close(observation_statistics(images.movedim(1, -1).flatten(0, -2)).mean, images.mean((0, 2, 3)), 1e-6)


@pytest.mark.parametrize("function", [return_filter, reward_scale])
def test_there_is_a_step_and_one_discount(function: Callable[..., Tensor]) -> None:
    """Of no episode none is the best, and returns are compared by one discount."""
    knobs = {"fraction": 0.5} if function is return_filter else {}
    none, some = torch.ones(0, 3), torch.ones(2, 3)
    with pytest.raises(ValueError, match=f"{function.__name__}: reward: expected a last axis of at least one step"):
        function(none, none.bool(), **knobs)
    with pytest.raises(ValueError, match=f"{function.__name__}: discount: expected shape"):
        function(some, some.bool(), discount=some, **knobs)


def test_a_horizon_of_less_than_one_step() -> None:
    """It is a number of any size."""
    done = torch.tensor([True, True])
    close(reward_scale(torch.tensor([1.0, 3.0], dtype=torch.float64), done, horizon=0.5), 0.25)


def test_images_are_no_observations() -> None:
    """The last of their axes is no list of dimensions."""
    with pytest.raises(ValueError, match=r"observation_statistics: observation: expected shape .+ at most three axes"):
        observation_statistics(torch.ones(2, 3, 4, 4))


def test_a_deviation_of_one_and_one_of_zero() -> None:
    """Each is itself, and the slope of the second is zero."""
    observation = torch.tensor([[-1.0, 3.0], [1.0, 3.0]], dtype=torch.float64)
    assert observation_statistics(observation).std.tolist() == [1.0, 0.0]
    (slope,) = gradients(lambda x: observation_statistics(x).std.sum(), observation)
    close(slope, torch.tensor([[-0.5, 0.0], [0.5, 0.0]], dtype=torch.float64))


def test_an_epsilon_for_each_row() -> None:
    """Of several axes too."""
    observation, epsilon = torch.randn(2, 3, 4, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64) + 0.1
    mean, std = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    got = normalize_observation(observation, mean, std, epsilon=epsilon)
    close(got, observation / (1 + epsilon.unsqueeze(-1)))
