"""The laws of windows and of sampling: never another episode's row, and the stated odds, whatever the units are."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import lengths, reals
from torch import Tensor
from torch.utils.data import DataLoader, WeightedRandomSampler

from benchmarks.timing import peak_bytes
from offline_losses import (
    episode_bounds,
    episode_return,
    episode_windows,
    hindsight_goals,
    n_step_return,
    sampling_probabilities,
)
from offline_losses._core import pieces

BOTH = ["episodes", "steps"]
by_each = pytest.mark.parametrize("by", BOTH)


def ends_of(steps: tuple[int, ...]) -> Tensor:
    done = torch.zeros(sum(steps), dtype=torch.bool)
    done[torch.tensor(steps).cumsum(0) - 1] = True
    return done


# --- windows -----------------------------------------------------------------------------------------------------


@given(data=st.data(), block=st.sampled_from([1, 4, pieces.BLOCK]))
def test_bounds_are_those_of_a_walk_through_the_steps(data: st.DataObject, block: int) -> None:
    """In each row of a batch, with an end on the last step or without, written in blocks of steps."""
    rows, steps = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9))
    done = torch.tensor(data.draw(st.lists(st.booleans(), min_size=rows * steps, max_size=rows * steps)))
    done = done.view(rows, steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "BLOCK", block)
        start, end = episode_bounds(done)
    for i in range(rows):
        first = 0
        for t in range(steps):
            last = next((e for e in range(t, steps) if done[i, e]), steps - 1)
            assert (start[i, t], end[i, t]) == (first, last)
            first = t + 1 if done[i, t] else first
    assert [each.tolist() for each in episode_bounds(done[0])] == [start[0].tolist(), end[0].tolist()]


@given(steps=lengths(6, 6), data=st.data())
def test_windows_are_those_of_a_walk_through_the_offsets(steps: tuple[int, ...], data: st.DataObject) -> None:
    """The mask says which rows are truly there; the others repeat the row at the end that they are beyond."""
    done = ends_of(steps)
    start, end = episode_bounds(done)
    index = torch.tensor(data.draw(st.lists(st.integers(0, len(done) - 1), min_size=1, max_size=5)))
    offset = torch.tensor(data.draw(st.lists(st.integers(-9, 9), min_size=1, max_size=5)))
    window = episode_windows(index, start[index], end[index], offset)
    episode = done.cumsum(0) - done.long()
    for i, row in enumerate(index.tolist()):
        for k, ahead in enumerate(offset.tolist()):
            place, found = row + ahead, int(window.rows[i, k])
            there = 0 <= place < len(done) and episode[place] == episode[row]
            assert bool(window.mask[i, k]) == there
            assert found == (place if there else int(end[row] if ahead > 0 else start[row]))
            assert episode[found] == episode[row]


@given(steps=lengths(6, 6))
def test_whole_windows_are_what_slicing_each_episode_gives(steps: tuple[int, ...]) -> None:
    """A chunk of three: all that `unfold` finds inside the episodes, and no other."""
    done, row = ends_of(steps), torch.arange(sum(steps))
    window = episode_windows(row, *episode_bounds(done), torch.arange(3))
    sliced = [part.unfold(0, 3, 1) for part in row.split(list(steps)) if len(part) >= 3]
    expected = torch.cat(sliced) if sliced else row.new_empty(0, 3)
    assert window.rows[window.mask.all(-1)].tolist() == expected.tolist()


@given(steps=lengths(5, 6), data=st.data())
def test_n_steps_ahead_ends_where_the_return_does(steps: tuple[int, ...], data: st.DataObject) -> None:
    """The rewards of a window, added up where they exist, are the n-step return without a bootstrap."""
    done, n = ends_of(steps), data.draw(st.integers(1, 4))
    reward = torch.tensor([data.draw(st.integers(-4, 4)) for _ in range(len(done))]).double()
    window = episode_windows(torch.arange(len(done)), *episode_bounds(done), torch.arange(n))
    total = torch.where(window.mask, reward[window.rows], 0.0).sum(-1)
    zero = torch.zeros_like(reward)
    assert total.tolist() == n_step_return(reward, zero, done, done, n=n, discount=1.0).tolist()


def test_offsets_of_each_row_are_goals_ahead_of_it() -> None:
    """Geometric ones give what `hindsight_goals` does."""
    done = ends_of((3, 6, 1, 8))
    index = torch.arange(len(done)).repeat(20)
    bounds = episode_bounds(done)
    start, end = (bound[index] for bound in bounds)
    uniform = torch.rand(len(index), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ahead = 1 + (torch.log1p(-uniform[:, 1:]) / math.log(0.8)).floor().long()
    goal = hindsight_goals(index, end, index, uniform, current_share=0.0, future_share=1.0, discount=0.8)
    assert episode_windows(index, start, end, ahead).rows.squeeze(-1).tolist() == goal.tolist()


def test_shapes_of_windows() -> None:
    start, end = episode_bounds(ends_of((2, 3)))
    for batch in [(), (4,), (2, 3), (0,)]:
        index = torch.ones(batch, dtype=torch.int64)
        for offset in (torch.arange(5), torch.arange(5).expand(*batch, 5), torch.arange(0)):
            window = episode_windows(index, start[index], end[index], offset)
            assert window.rows.shape == window.mask.shape == (*batch, len(offset) if offset.ndim == 1 else 5)
            assert (window.rows.dtype, window.mask.dtype) == (torch.int64, torch.bool)


def test_windows_in_compiled_code_and_under_vmap() -> None:
    start, end = episode_bounds(ends_of((4, 2, 7)))
    index, offset = torch.tensor([[0, 3], [5, 9]]), torch.arange(-2, 3)
    wanted = episode_windows(index, start[index], end[index], offset)
    compiled = torch.compile(episode_windows, fullgraph=True, backend="eager")
    mapped = torch.func.vmap(episode_windows, in_dims=(0, 0, 0, None))
    for way in (compiled, mapped):
        assert all(torch.equal(x, y) for x, y in zip(way(index, start[index], end[index], offset), wanted, strict=True))


def test_what_windows_cannot_be_cut_from() -> None:
    row = torch.tensor([0, 1])
    with pytest.raises(TypeError, match=r"episode_bounds: done: expected a bool tensor"):
        episode_bounds(row)
    with pytest.raises(ValueError, match=r"episode_bounds: done: expected a last axis of at least one step"):
        episode_bounds(torch.tensor(True))
    with pytest.raises(TypeError, match=r"episode_windows: index: expected an int64 tensor"):
        episode_windows(row.float(), row, row, row)
    with pytest.raises(ValueError, match=r"episode_windows: episode_end: expected shape \[2\] \(that of index\)"):
        episode_windows(row, row, row[:1], row)
    with pytest.raises(TypeError, match=r"episode_windows: offset: expected an int64 tensor, got .*torch.arange\(8\)"):
        episode_windows(row, row, row, 8)  # type: ignore[arg-type]
    for offset in (torch.tensor(1), torch.zeros(3, 4, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"episode_windows: offset: expected shape \[L\], or \[2, L\] with"):
            episode_windows(row, row, row, offset)
    with pytest.raises(ValueError, match=r"episode_windows: offset: expected shape \[L\], or \[L\] with"):
        episode_windows(row[0], row[0], row[0], torch.tensor(1))


# --- how often ---------------------------------------------------------------------------------------------------


@st.composite
def scored(draw: st.DrawFn) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """A score for each step, and flags."""
    steps = draw(lengths(6, 5))
    return torch.tensor([draw(reals(-5, 5)) for _ in range(sum(steps))]).double(), ends_of(steps), steps


@by_each
@given(case=scored(), temperature=reals(0.05, 5.0), scale=reals(0.1, 100.0), shift=reals(-100.0, 100.0))
def test_units_do_not_matter_and_the_sum_is_one(
    by: str, case: tuple[Tensor, Tensor, tuple[int, ...]], temperature: float, scale: float, shift: float
) -> None:
    score, done, _ = case
    p = sampling_probabilities(score, done, temperature=temperature, by=by)
    moved = sampling_probabilities(scale * score + shift, done, temperature=temperature, by=by)
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    if score.max() - score.min() > 1e-3:
        torch.testing.assert_close(moved, p, rtol=1e-6, atol=1e-9)


@given(case=scored(), temperature=reals(0.05, 5.0))
def test_the_odds_of_best_and_worst_follow_from_the_temperature(
    case: tuple[Tensor, Tensor, tuple[int, ...]], temperature: float
) -> None:
    """Of steps; and the better is never rarer."""
    score, done, _ = case
    p = sampling_probabilities(score, done, temperature=temperature)
    order = score.argsort()
    assert (p[order].diff() >= 0).all()
    odds = 1.0 if score.max() == score.min() else math.exp(1 / temperature)
    assert (p.max() / p.min()).item() == pytest.approx(odds, rel=1e-9)


@given(steps=lengths(6, 5), data=st.data(), temperature=reals(0.05, 5.0))
def test_an_episode_is_drawn_by_its_return_whatever_its_length(
    steps: tuple[int, ...], data: st.DataObject, temperature: float
) -> None:
    """By episodes: those of equal return are drawn alike. By steps: in proportion to their lengths."""
    done = ends_of(steps)
    totals = torch.tensor([data.draw(st.integers(0, 3)) for _ in steps]).double()
    reward = torch.zeros(len(done), dtype=torch.float64)
    reward[done] = totals
    score = episode_return(reward, done)
    lowest, spread = totals.min(), max(float(totals.max() - totals.min()), 1e-300)
    weight = ((totals - lowest) / spread / temperature).exp()
    for by, share in (("episodes", weight), ("steps", weight * torch.tensor(steps))):
        p = sampling_probabilities(score, done, temperature=temperature, by=by)
        drawn = torch.stack([part.sum() for part in p.split(list(steps))])
        torch.testing.assert_close(drawn, share / share.sum(), rtol=1e-9, atol=0)
        assert all(part.max() == part.min() for part in p.split(list(steps)))


@by_each
def test_a_small_temperature_draws_the_best_and_a_large_one_all(by: str) -> None:
    done = ends_of((2, 1, 3))
    score = episode_return(torch.tensor([1.0, 1, 5, 0, 0, 1]), done)
    assert sampling_probabilities(score, done, temperature=1e-30, by=by).tolist() == [0, 0, 1, 0, 0, 0]
    alike = sampling_probabilities(score, done, temperature=1e30, by=by)
    expected = [1 / 6] * 2 + [1 / 3] + [1 / 9] * 3 if by == "episodes" else [1 / 6] * 6
    assert alike.tolist() == pytest.approx(expected)
    for temperature in (0.1, 1e-30):
        equal = sampling_probabilities(torch.full((6,), 7.0), done, temperature=temperature, by=by)
        assert equal.tolist() == pytest.approx(expected)


@by_each
def test_scores_far_apart_are_finite(by: str) -> None:
    score = torch.tensor([-3e38, 0.0, 3e38])
    p = sampling_probabilities(score, torch.tensor([True, False, True]), temperature=0.5, by=by)
    assert p.isfinite().all()
    assert p.sum() == pytest.approx(1)


@by_each
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@given(data=st.data(), block=st.sampled_from([1, 3, pieces.BLOCK]))
def test_many_scores_are_no_other_than_few(by: str, dtype: torch.dtype, data: st.DataObject, block: int) -> None:
    """Many are gone through in blocks of steps or by episodes: the same to the last digit, for rows and flat data."""
    score, done, _ = data.draw(scored())
    score, done = score.to(dtype), done.clone()
    score[data.draw(st.integers(0, len(score) - 1))] = data.draw(st.sampled_from([1.0, math.nan, -math.inf]))
    done[-1] = data.draw(st.booleans())
    for shape in [(-1,), (1, -1), *([(2, -1)] if len(score) % 2 == 0 else [])]:
        arguments = score.view(shape), done.view(shape)
        few = sampling_probabilities(*arguments, temperature=0.3, by=by)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pieces, "MANY", 1)
            patch.setattr(pieces, "BLOCK", block)
            many = sampling_probabilities(*arguments, temperature=0.3, by=by)
        torch.testing.assert_close(many, few, rtol=0, atol=0, equal_nan=True)


@by_each
@pytest.mark.filterwarnings("error")
def test_many_scores_under_a_map(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows, and of temperatures alone."""
    monkeypatch.setattr(pieces, "BLOCK", 1000)
    score, done, temperature = torch.randn(2, pieces.MANY), torch.arange(pieces.MANY) % 200 == 199, torch.rand(2) + 0.1

    def way(score: Tensor, temperature: Tensor) -> Tensor:
        return sampling_probabilities(score, done, temperature=temperature, by=by)

    each = torch.stack(list(map(way, score, temperature)))
    torch.testing.assert_close(torch.vmap(way)(score, temperature), each)
    each = torch.stack([way(score[0], x) for x in temperature])
    torch.testing.assert_close(torch.vmap(way, (None, 0))(score[0], temperature), each)


LARGE = {
    "episode_bounds": (lambda score, done: [*episode_bounds(done)], 18),
    "by steps": (lambda score, done: [sampling_probabilities(score, done)], 10),
    "by episodes": (lambda score, done: [sampling_probabilities(score, done, by="episodes")], 10),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_dataset_takes_little_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of each step at the peak, of a million in episodes of 200 and in a single one."""
    monkeypatch.setattr(pieces, "BLOCK", 2**13)
    function, most = LARGE[name]
    score, step = torch.randn(1_000_000), torch.arange(1_000_000)
    for done in (step % 200 == 199, step == len(step) - 1):
        assert peak_bytes(lambda done=done: function(score, done), score.device) < most * len(score)


def test_it_is_what_a_sampler_takes() -> None:
    """The weights of PyTorch's sampler, and the search that takes any number of rows, draw as often as is said."""
    done = ends_of((1, 3, 2))
    p = sampling_probabilities(torch.tensor([0.0, 1, 1, 1, 0.5, 0.5]), done, temperature=0.5, by="episodes")
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor(list(WeightedRandomSampler(p, 20_000, generator=generator)))
    running = p.to(torch.float64, copy=True).cumsum_(-1)
    running /= running[-1].clone()
    found = torch.searchsorted(running, torch.rand(20_000, dtype=torch.float64, generator=generator), right=True)
    for rows in (drawn, found):
        share = rows.bincount(minlength=6) / len(rows)
        assert ((share - p).abs() < 5 * (p / len(rows)).sqrt()).all()


def test_rows_beyond_those_that_multinomial_takes() -> None:
    """Of 2^24 + 1000 rows the last four are drawn as often as all others together, by a loader as well."""
    best, rows = 4, 2**24 + 1000
    score = torch.zeros(rows, dtype=torch.float16)
    score[-best:] = 1.0
    p = sampling_probabilities(
        score, torch.zeros(1, dtype=torch.bool).expand(rows), temperature=1 / math.log(rows / best - 1)
    )
    with pytest.raises(RuntimeError, match=r"2\^24"):
        torch.multinomial(p, 1)
    assert p[-best:].tolist() == pytest.approx([0.5 / best] * best, rel=1e-6)
    running = p.to(torch.float64, copy=True).cumsum_(-1)
    running /= running[-1].clone()
    assert running[-best - 1 :].tolist() == pytest.approx([0.5 + i / 8 for i in range(best + 1)], rel=1e-6)
    generator = torch.Generator().manual_seed(0)

    def batches(updates: int, size: int) -> Iterator[Tensor]:
        for _ in range(updates):
            uniform = torch.rand(size, dtype=torch.float64, generator=generator)
            yield torch.searchsorted(running, uniform, right=True)

    drawn = torch.cat(list(batches(10, 2000)))
    share = (drawn - (rows - best)).clamp(min=-1).add(1).bincount(minlength=best + 1) / len(drawn)
    assert share.tolist() == pytest.approx([0.5, *[0.5 / best] * best], abs=5 * (0.25 / len(drawn)) ** 0.5)
    loader = DataLoader(score, sampler=batches(4, 500), batch_size=None)  # type: ignore[arg-type]
    assert torch.stack(list(loader)).float().mean() == pytest.approx(0.5, abs=5 * (0.25 / 2000) ** 0.5)


def test_the_search_never_finds_a_row_of_probability_zero() -> None:
    p = torch.tensor([0.0, 0.0, 0.5, 0.0, 0.5, 0.0])
    running = p.to(torch.float64, copy=True).cumsum_(-1)
    running /= running[-1].clone()
    edges = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert torch.searchsorted(running, edges, right=True).tolist() == [2, 4, 4]


def test_there_is_a_step_to_draw() -> None:
    """Of rows without any too."""
    none = torch.ones(0, 3)
    with pytest.raises(ValueError, match="sampling_probabilities: score: expected a last axis of at least one step"):
        sampling_probabilities(none, none.bool())


def test_probabilities_carry_no_gradient() -> None:
    """Neither of the score nor of the temperature."""
    score, temperature = torch.arange(3.0, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    p = sampling_probabilities(score, torch.tensor([True, False, True]), temperature=temperature)
    assert not p.requires_grad


def test_no_rows_have_no_bounds() -> None:
    """Rows of three steps, of which there is none."""
    for bound in episode_bounds(torch.ones(0, 3, dtype=torch.bool)):
        assert (bound.shape, bound.dtype) == ((0, 3), torch.int64)
