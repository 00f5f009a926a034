"""The laws of reports: what a trimmed mean is made of, who wins, and what resampled runs leave alone."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, trim_mean
from strategies import batches, reals, tensors

from offline_losses import (
    interquartile_mean,
    normalized_score,
    probability_of_improvement,
    stratified_bootstrap_interval,
)


@given(data=st.data())
def test_the_interquartile_mean_is_trimmed_over_everything(data: st.DataObject) -> None:
    """SciPy's over all runs and tasks; it moves and scales along, and no outlier moves it."""
    score = data.draw(tensors(data.draw(batches(1, 2, 1, 6))))
    iqm, c, a = interquartile_mean(score), data.draw(reals()), data.draw(reals(0.1, 5.0))
    close(iqm, trim_mean(score.numpy(), 0.25, axis=None))
    close(interquartile_mean(a * score + c), a * iqm + c)
    (slope,) = gradients(interquartile_mean, score)
    close(slope.sum(), 1.0)
    if score.numel() >= 4:
        outlier = score.flatten().clone()
        outlier[outlier.argmax()] = torch.inf
        close(interquartile_mean(outlier), iqm)


def test_it_is_no_mean_of_the_tasks_own() -> None:
    """Two tasks of four runs: by itself each keeps two of four, together four of eight."""
    score = torch.tensor([[0.0, 0.0, 0.0, 8.0], [1.0, 2.0, 3.0, 4.0]])
    assert interquartile_mean(score) == 1.5
    assert torch.stack([interquartile_mean(task) for task in score]).mean() == 1.25


@given(data=st.data())
def test_the_probability_of_improvement_is_mann_whitneys(data: st.DataObject) -> None:
    """U over the number of pairs; two sides add up to one, and one's own is one half."""
    x, y = (torch.round(data.draw(tensors((2, data.draw(st.integers(1, 5)))))) for _ in range(2))
    found = probability_of_improvement(x, y)
    for task in range(2):
        u = mannwhitneyu(x[task].numpy(), y[task].numpy(), alternative="greater").statistic
        close(found[task], u / (x.shape[1] * y.shape[1]))
    close(found + probability_of_improvement(y, x), 1.0)
    close(probability_of_improvement(x, x), 0.5)
    close(probability_of_improvement(x.exp(), y.exp()), found)


@given(low=reals(), size=reals(0.5, 10.0), share=reals(-1.0, 2.0))
def test_a_normalized_score_is_a_place_between_two(low: float, size: float, share: float) -> None:
    """The random policy has 0 and the reference 1; one for each score works too."""
    score = torch.tensor([low, low + size, low + share * size], dtype=torch.float64)
    wanted = torch.tensor([0.0, 1.0, share], dtype=torch.float64)
    close(normalized_score(score, random_score=low, reference_score=low + size), wanted, 1e-7)
    each = torch.full_like(score, low)
    close(normalized_score(score, random_score=each, reference_score=each + size), wanted, 1e-7)


def test_runs_are_resampled_within_their_task() -> None:
    """Tasks that differ and runs that do not leave nothing uncertain; more runs leave less, and nothing else draws."""
    generator = torch.Generator().manual_seed(0)
    state = torch.get_rng_state()
    score = torch.tensor([[1.0, 1.0], [5.0, 5.0], [9.0, 9.0]])
    low, high = stratified_bootstrap_interval(torch.mean, score, generator=generator, resamples=20)
    assert low == high == 5
    few = torch.randn(4, 5, generator=generator)
    widths = []
    for runs in (few, few.repeat(1, 16)):
        low, high = stratified_bootstrap_interval(interquartile_mean, runs, generator=generator, resamples=200)
        not_above(low, interquartile_mean(runs))
        not_above(interquartile_mean(runs), high)
        widths.append(high - low)
    assert 3 < widths[0] / widths[1] < 5.5
    wide = stratified_bootstrap_interval(torch.mean, few, generator=torch.Generator().manual_seed(1), level=0.99)
    narrow = stratified_bootstrap_interval(torch.mean, few, generator=torch.Generator().manual_seed(1), level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert torch.equal(state, torch.get_rng_state())


def test_wrong_scores_are_refused() -> None:
    """By name."""
    generator = torch.Generator()
    with pytest.raises(ValueError, match="stratified_bootstrap_interval: score: expected a last axis of at least one"):
        stratified_bootstrap_interval(torch.mean, torch.ones(2, 0), generator=generator)
    with pytest.raises(TypeError, match="stratified_bootstrap_interval: score: expected a floating dtype"):
        stratified_bootstrap_interval(torch.mean, torch.ones(2, 3).long(), generator=generator)
    with pytest.raises(ValueError, match="stratified_bootstrap_interval: resamples: expected an int"):
        stratified_bootstrap_interval(torch.mean, torch.ones(2, 3), generator=generator, resamples=0)
    with pytest.raises(ValueError, match="stratified_bootstrap_interval: level: expected a number"):
        stratified_bootstrap_interval(torch.mean, torch.ones(2, 3), generator=generator, level=1.0)


def test_a_score_that_is_no_number_improves_on_nothing_and_is_improved_by_nothing() -> None:
    """In the task where it stands."""
    one, nan = torch.tensor([[1.0], [1.0]]), torch.tensor([[math.nan], [0.0]])
    assert probability_of_improvement(one, nan)[0].isnan()
    assert probability_of_improvement(nan, one)[0].isnan()
    assert probability_of_improvement(one, nan)[1] == 1


def test_a_metric_is_one_number() -> None:
    """One for each task would be pooled with the others."""
    with pytest.raises(TypeError, match="stratified_bootstrap_interval: metric: expected a function whose"):
        stratified_bootstrap_interval(lambda s: s.mean(-1), torch.randn(2, 3), generator=torch.Generator())


def test_the_defaults() -> None:
    """A level of 0.95, and a thousand resamples; one is the least."""
    calls = []
    for knobs in ({}, {"resamples": 1}):
        metric = lambda score: calls.append(score) or score.sum()  # noqa: E731
        stratified_bootstrap_interval(metric, torch.ones(1), generator=torch.Generator(), **knobs)
    assert len(calls) == 1001
    score = torch.arange(8.0)
    default, explicit = (
        stratified_bootstrap_interval(torch.mean, score, generator=torch.Generator(), resamples=20, **knobs)
        for knobs in ({}, {"level": 0.95})
    )
    assert default == explicit


@pytest.mark.parametrize("shape", [(1, 4), (2, 1, 4)])
def test_the_runs_are_the_last_axis(shape: tuple[int, ...]) -> None:
    """However many axes the tasks have: a resample is of four runs, not of one."""
    score = torch.arange(4.0).expand(shape)
    found = stratified_bootstrap_interval(torch.mean, score, generator=torch.Generator(), resamples=50)
    assert found.low < 1.5 < found.high


def test_both_algorithms_have_runs() -> None:
    """Of no run there is no probability."""
    some = torch.ones(2, 3)
    for none in (torch.ones(2, 0), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="probability_of_improvement: score: expected a last axis of at least one"):
            probability_of_improvement(none, some)
        with pytest.raises(ValueError, match="of_improvement: other_score: expected a last axis of at least one"):
            probability_of_improvement(some, none)


def test_the_generator_of_runs_is_one() -> None:
    """A seed is none."""
    with pytest.raises(TypeError, match=r"stratified_bootstrap_interval: generator: expected a torch\.Generator"):
        stratified_bootstrap_interval(torch.mean, torch.ones(2, 3), generator=0)
