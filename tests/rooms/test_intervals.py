"""The laws of intervals: how often they hold the truth, what moves them, and what the bootstrap draws."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from comparison import close, not_above
from evaluation import PROCESS, Log, logs
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from scipy.stats import binom, norm
from strategies import reals, tensors

from offline_losses import (
    bootstrap_interval,
    doubly_robust_value,
    empirical_bernstein_interval,
    importance_sampling_value,
    normal_interval,
    weighted_importance_sampling_value,
    weighted_per_decision_value,
)


@given(data=st.data(), level=reals(0.05, 0.999), count=reals(2.0, 1000.0), spread=reals(0.1, 5.0))
def test_follows_the_paper(data: st.DataObject, level: float, count: float, spread: float) -> None:
    """Both forms, around the estimate and wider for a higher level."""
    value, error = data.draw(tensors((3,))), data.draw(tensors((3,), 0.0, 3.0))
    known = {"count": count, "spread": spread}
    for function, knobs in ((normal_interval, {}), (empirical_bernstein_interval, known)):
        found = function(value, error, level=level, **knobs)
        wanted = ORACLES[function.__name__](value.numpy(), error.numpy(), level=level, **knobs)
        for actual, expected in zip(found, wanted, strict=True):
            close(actual, expected)
        close(found.low + found.high, 2 * value)
        narrower = function(value, error, level=level / 2, **knobs)
        not_above(narrower.high, found.high)
    certain = empirical_bernstein_interval(value, error, level=level, **known)
    not_above(normal_interval(value, error, level=level).high, certain.high)


def test_what_is_unknown_has_no_bounds() -> None:
    """An infinite error, of a single episode for instance."""
    value, error = torch.tensor(1.0), torch.tensor(math.inf)
    for low, high in (normal_interval(value, error), empirical_bernstein_interval(value, error, count=2, spread=1.0)):
        assert (low, high) == (-math.inf, math.inf)


def test_they_hold_the_truth_as_often_as_they_say() -> None:
    """Means of 60 coins, all outcomes enumerated: roughly at the level, and for certain never below it."""
    n, level = 60, 0.9
    heads = torch.arange(n + 1).double()
    mean = heads / n
    error = (mean * (1 - mean) / (n - 1)).sqrt()
    for p in (0.5, 0.3, 0.1):
        chance = torch.from_numpy(binom.pmf(heads.numpy(), n, p))

        intervals = (
            normal_interval(mean, error, level=level),
            empirical_bernstein_interval(mean, error, count=n, spread=1.0, level=level),
        )
        normal, certain = (float(chance[(low <= p) & (p <= high)].sum()) for low, high in intervals)
        assert abs(normal - level) < 0.08
        assert certain > level


def columns(log: Log, model: bool = False) -> dict[str, torch.Tensor]:
    """A log as a user has it."""
    fields = log._asdict()
    return fields if model else {name: fields[name] for name in ("reward", "log_ratio", "done")}


@given(log=logs(), seed=st.integers(0, 100))
def test_each_resample_holds_whole_episodes(log: Log, seed: int) -> None:
    """As many as there are, each as it was recorded, and their order in each one too."""
    end = log.done.clone()
    end[-1] = True
    episode = torch.cat([torch.zeros(1), end[:-1].double().cumsum(0)]).long()
    number = torch.arange(len(end))
    whole = {tuple(number[episode == e].tolist()) for e in range(int(episode[-1]) + 1)}

    def seen(row: torch.Tensor, done: torch.Tensor) -> torch.Tensor:
        last = done.nonzero().flatten().tolist()
        assert last[-1] == len(row) - 1
        assert len(last) == len(whole)
        for begin, stop in zip([-1, *last[:-1]], last, strict=True):
            assert tuple(row[begin + 1 : stop + 1].tolist()) in whole
        return row.double().mean()

    state, generator = torch.get_rng_state(), torch.Generator().manual_seed(seed)
    data = {"row": number, "done": log.done}
    first = bootstrap_interval(seen, data, generator=generator, resamples=5)
    assert torch.equal(state, torch.get_rng_state())
    again = bootstrap_interval(seen, data, generator=torch.Generator().manual_seed(seed), resamples=5)
    assert first == again


def test_what_is_normalized_is_resampled_too() -> None:
    """Rewards of one leave nothing uncertain, however the weights scatter, where their mean is resampled as well."""
    generator = torch.Generator().manual_seed(0)
    log = {"reward": torch.ones(50), "log_ratio": torch.randn(50), "done": torch.ones(50, dtype=torch.bool)}
    low, high = bootstrap_interval(weighted_importance_sampling_value, log, generator=generator, resamples=50)
    assert low == high == 1
    low, high = bootstrap_interval(importance_sampling_value, log, generator=generator, resamples=50)
    assert high - low > 0.1


def test_the_bootstrap_is_as_wide_as_the_error_says() -> None:
    """On a sample of a process, for estimators with and without a model; each row is a sample where nothing is done."""
    log = PROCESS.sample(lambda steps: torch.zeros(2, 2).double())
    starts = torch.cat([torch.tensor([True]), log.done[:-1]]).nonzero().flatten()
    log = log.take(torch.arange(int(starts[3000])))
    for function, model in ((weighted_per_decision_value, False), (doubly_robust_value, True)):
        knobs = {"discount": PROCESS.discount}
        _, error, _ = function(*(log if model else log.plain), **knobs)
        low, high = bootstrap_interval(
            partial(function, **knobs), columns(log, model), generator=torch.Generator().manual_seed(1), resamples=200
        )
        assert 0.8 < (high - low) / (2 * norm.ppf(0.975) * error) < 1.2
    sample = torch.randn(400, generator=torch.Generator().manual_seed(2))
    low, high = bootstrap_interval(
        lambda x: x.mean(), {"x": sample}, generator=torch.Generator().manual_seed(1), level=0.5
    )
    assert 0.8 < (high - low) / (2 * norm.ppf(0.75) * sample.std() / 20) < 1.2


def test_wrong_columns_are_refused() -> None:
    """By name, with what was expected."""
    mean, generator, flag = (lambda **x: x["x"].mean()), torch.Generator(), torch.ones(3, dtype=torch.bool)
    for data, error, match in (
        ({"x": torch.ones(3), "y": torch.ones(4)}, ValueError, r"bootstrap_interval: y: expected shape \[3\]"),
        ({"x": torch.ones(3), "done": torch.ones(3)}, TypeError, "bootstrap_interval: done: expected a bool tensor"),
        ({"x": [1.0]}, TypeError, r"bootstrap_interval: x: expected a torch\.Tensor"),
        ({"x": torch.ones(0)}, ValueError, "bootstrap_interval: x: expected a last axis of at least one row"),
        ({"x": torch.ones(3, 2), "done": flag[:2]}, ValueError, "bootstrap_interval: done: expected shape"),
    ):
        with pytest.raises(error, match=match):
            bootstrap_interval(mean, data, generator=generator)
    for knobs, match in (
        ({"resamples": 0}, "resamples: expected an int"),
        ({"level": 1.0}, "level: expected a number"),
    ):
        with pytest.raises(ValueError, match=match):
            bootstrap_interval(mean, {"x": torch.ones(3)}, generator=generator, **knobs)


def test_a_level_near_one_is_not_rounded_to_it() -> None:
    """A float32 does not tell them apart."""
    zero, one = torch.tensor(0.0), torch.tensor(1.0)
    wanted = norm.isf(0.5e-8)
    assert normal_interval(zero, one, level=1 - 1e-8).high.item() == pytest.approx(wanted, rel=1e-6)
    found = empirical_bernstein_interval(zero, zero, count=8.0, spread=3.0, level=1 - 1e-8)
    assert found.high.item() == pytest.approx(math.log(4e8), rel=1e-6)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"estimator": lambda input: input}, TypeError, "estimator: expected a function whose"),
        ({"estimator": lambda input: 0.5}, TypeError, "estimator: expected a function whose"),
        ({"columns": {}}, ValueError, "columns: expected at least one column"),
        ({"columns": {"x": torch.tensor(1.0)}}, ValueError, "x: expected"),
        ({"generator": 0}, TypeError, "generator: expected a torch.Generator"),
    ],
)
def test_what_is_passed_to_the_bootstrap_is_checked(changed: dict[str, Any], error: type, words: str) -> None:
    """A result of many numbers would be pooled with all the others."""
    arguments = {"estimator": torch.mean, "columns": {"input": torch.arange(5.0)}, "generator": torch.Generator()}
    arguments |= changed
    with pytest.raises(error, match=f"bootstrap_interval: {words}"):
        bootstrap_interval(arguments.pop("estimator"), arguments.pop("columns"), **arguments)


def test_the_number_of_resamples() -> None:
    """A thousand resamples; one is the least."""
    calls = []
    for knobs in ({}, {"resamples": 1}):
        bootstrap_interval(
            lambda x: calls.append(x) or x.sum(), {"x": torch.ones(1)}, generator=torch.Generator(), **knobs
        )
    assert len(calls) == 1001


def test_columns_may_have_axes_of_their_own() -> None:
    """The first one too; the interval carries no gradient of any, and one of another length is told its shape."""
    x, generator = torch.ones(3, 2, requires_grad=True), torch.Generator()
    data = {"x": x, "done": torch.tensor([False, True, True])}
    interval = bootstrap_interval(lambda x, done: x.sum() / done.sum(), data, generator=generator, resamples=9)
    assert not interval.low.requires_grad
    assert not interval.high.requires_grad
    with pytest.raises(
        ValueError, match=r"bootstrap_interval: y: expected shape \[3, 5\] \(that of x\), got .+ \[4, 5\]"
    ):
        bootstrap_interval(lambda x, y: x.sum(), {"x": x, "y": torch.ones(4, 5)}, generator=generator)
