"""Log-ratios of a log: what cannot be right is told in a sentence, and what may be is let through."""

from __future__ import annotations

import pytest
import torch
from evaluation import PROCESS
from hypothesis import given
from hypothesis import strategies as st
from strategies import probabilities
from torch import Tensor

from offline_losses import check_log_ratio

INF, NAN = float("inf"), float("nan")


def log(*numbers: float, steps: int = 24) -> Tensor:
    """These log-ratios over and over."""
    return torch.tensor(numbers).repeat(-(-steps // len(numbers)))[:steps]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((0.1, NAN, -0.1), r"expected numbers, got NaN in 8 of 24 steps, the first of which is 1\. Look for 0 / 0"),
        ((0.1, -0.1, INF), r"expected propensities above 0, got ∞ in 8 of 24 steps, the first of which is 2\. Take"),
        ((0.5, 2.0), r"expected logarithms, .+ below 0, got none below 0 in 24 of 24 steps.+ is 0\. .+\.log\(\)"),
        ((0.0, 1.0), r"expected logarithms, .+ below 0, got none below 0 in 24 of 24 steps"),
        ((0.0, -1.0), r"expected logarithms of ratios, .+ above 0, got none above 0 in 24 of 24 steps"),
        ((0.0, -INF), r"expected actions .+, got −∞, one that it never takes, in 2 of 2 episodes, in 12 of 24 steps"),
        ((-0.5, -2.0), r"expected logarithms of ratios, .+ above 0, got none above 0 in 24 of 24 .+ Subtract"),
        (
            (0.1, -INF, 0.1, -1.0),
            r"expected actions .+, got −∞, one that it never takes, in 3 of 6 episodes, in 6 of 24 steps, .+ is 1\.",
        ),
        ((-INF,), r"expected actions .+, got −∞, .+ in 2 of 2 episodes, in 24 of 24 steps"),
    ],
)
def test_log_ratios_that_cannot_be_right(numbers: tuple[float, ...], said: str) -> None:
    """Refused in a sentence with their number and the first."""
    done = torch.zeros(24, dtype=torch.bool)
    done[[7, 8, 9, 10, 11, 23] if len(numbers) == 4 else [11]] = True
    with pytest.raises(ValueError, match=f"check_log_ratio: log_ratio: {said}"):
        check_log_ratio(log(*numbers), done)


def test_episodes_without_an_end() -> None:
    """A log whose time limits were not read; rows are places of two numbers."""
    with pytest.raises(ValueError, match=r"check_log_ratio: done: expected the last step .+, got not one in 24 of 24"):
        check_log_ratio(log(0.1, -0.1), torch.zeros(24, dtype=torch.bool))
    rows = torch.tensor([[0.1, -0.1], [-0.1, NAN]])
    with pytest.raises(ValueError, match=r"the first of which is \[1, 1\]"):
        check_log_ratio(rows, torch.tensor([[False, True], [False, True]]))


def test_what_may_be_right_passes() -> None:
    """Few steps of one sign, policies that are the same, and a log of a process."""
    end = torch.ones(24, dtype=torch.bool)
    check_log_ratio(log(0.5, steps=19), end[:19])
    check_log_ratio(log(-0.5, steps=19), end[:19])
    check_log_ratio(log(0.0), end)
    every = PROCESS.sample(PROCESS.q)
    kept = every.log_ratio.isfinite()
    check_log_ratio(every.log_ratio[kept], every.done[kept])


@given(data=st.data())
def test_true_log_ratios_pass(data: st.DataObject) -> None:
    """Of two policies with the same support, on actions as often as the one takes them."""
    policy, behavior = (data.draw(probabilities((4,), zeros=False)) for _ in range(2))
    action = torch.arange(4).repeat_interleave((behavior * 200).ceil().long())
    ratio = policy[action].log() - behavior[action].log()
    check_log_ratio(ratio, torch.ones_like(ratio, dtype=torch.bool))


def test_how_many_are_no_accident() -> None:
    """Twenty steps of one sign are enough."""
    for ratio in (0.5, -0.5):
        with pytest.raises(ValueError, match="in 20 of 20 steps"):
            check_log_ratio(log(ratio, steps=20), torch.ones(20, dtype=torch.bool))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_there_is_a_step(shape: tuple[int, ...]) -> None:
    """A log of none is refused, as are numbers of another kind."""
    with pytest.raises(ValueError, match="check_log_ratio: log_ratio: expected a last axis of at least one step"):
        check_log_ratio(torch.ones(shape), torch.ones(shape, dtype=torch.bool))
    with pytest.raises(TypeError, match="check_log_ratio: log_ratio: expected a floating dtype"):
        check_log_ratio(torch.ones(3).long(), torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="check_log_ratio: done: expected shape"):
        check_log_ratio(torch.ones(3), torch.ones(2, dtype=torch.bool))
