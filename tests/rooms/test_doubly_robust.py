"""The laws of evaluation with a model: what a right one makes certain, and what a wrong one cannot spoil."""

from __future__ import annotations

import torch
from comparison import close
from evaluation import ESTIMATORS, PROCESS, Log, logs
from hypothesis import given
from strategies import discounts

from offline_losses import doubly_robust_value, weighted_doubly_robust_value

BOTH = (doubly_robust_value, weighted_doubly_robust_value)


@given(log=logs(), discount=discounts)
def test_a_model_of_zeros_is_no_model(log: Log, discount: float) -> None:
    """Then they are the per-decision forms."""
    zero = torch.zeros_like(log.reward)
    log = log._replace(q_data=zero, value=zero, next_value=zero)
    for one, other in (("doubly_robust", "per_decision"), ("weighted_doubly_robust", "weighted_per_decision")):
        pair = (ESTIMATORS[f"{name}_value"](log, discount=discount) for name in (one, other))
        for actual, expected in zip(*pair, strict=True):
            close(actual, expected)


@given(log=logs(), discount=discounts)
def test_a_model_without_errors_is_believed(log: Log, discount: float) -> None:
    """Deterministic rewards and steps that Q predicts: each episode gives V of its first state, whatever the ratios."""
    following = torch.where(log.terminated, 0.0, log.next_value)
    log = log._replace(q_data=log.reward + discount * following)
    first = torch.cat([torch.tensor([True]), log.done[:-1]])
    values = log.value[first]
    for function in BOTH:
        found = function(*log, discount=discount)
        close(found.value, values.mean())
        if len(values) > 1 and found.effective_sample_size > 0:
            close(found.standard_error, values.std() / len(values) ** 0.5, 1e-7)


def test_a_time_limit_goes_on_with_the_model_and_an_end_does_not() -> None:
    """The last step's next value counts where it is not terminated; no next value of a terminated step is read."""
    one, done = torch.ones(2).double(), torch.tensor([False, True])
    for function in BOTH:
        for terminated, wanted in ((False, 1 + 0.5 + 0.25 * 3), (True, 1 + 0.5)):
            end = torch.tensor([False, terminated])
            following = torch.tensor([0.0, torch.nan if terminated else 3.0]).double()
            found = function(one, 0 * one, 0 * one, following, 0 * one, end, done, discount=0.5)
            close(found.value, wanted)


def test_only_the_first_value_of_an_episode_is_read() -> None:
    """The others say what the next values say."""
    one, done = torch.ones(4), torch.tensor([False, True, False, True])
    value = torch.tensor([2.0, torch.nan, 4.0, torch.nan])
    for function in BOTH:
        assert function(one, one, value, 0 * one, 0 * one, done, done, discount=1.0).value == 3


def test_a_good_model_takes_away_the_variance() -> None:
    """On all episodes of a process, the exact Q leaves the smaller error, and any Q the same mean."""
    errors = {}
    for name, model in (("none", lambda steps: torch.zeros(2, 2).double()), ("exact", PROCESS.q)):
        log = PROCESS.sample(model)
        errors[name] = [function(*log, discount=PROCESS.discount).standard_error for function in BOTH]
    assert all(exact < none for exact, none in zip(errors["exact"], errors["none"], strict=True))
