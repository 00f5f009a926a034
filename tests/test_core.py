"""What all rooms share, on its edges and in both of its ways, where no identity of a room would tell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from comparison import gradients
from hypothesis import given
from hypothesis import strategies as st
from strategies import fractions, masks

from offline_losses._core import reduce
from offline_losses._core.exponential import above_tangent, log_mean_exp
from offline_losses._core.ranking import _best_by_scatter, _best_by_segments
from offline_losses._core.reduce import exact, in_double, log_sigmoid, mean_size, over_mean, scalar, select_rows, total
from offline_losses._core.tracing import tracing

CPU = torch.device("cpu")


def test_the_exponential_above_its_tangent_keeps_its_digits() -> None:
    """On both sides of where the series takes over; the difference itself has five digits there, and then none."""
    z = torch.linspace(-1, 1, 4001)
    exact = torch.expm1(z.double()) - z.double()
    assert ((above_tangent(z) - exact).abs() <= 5e-6 * exact.abs()).all()


@pytest.mark.parametrize("x", [[], [3.0, torch.inf]])
def test_the_mean_exponential_of_nothing(x: list[float]) -> None:
    """Zero on every element, none of which exists."""
    y = torch.tensor(x)
    assert log_mean_exp(y, torch.zeros(len(x), dtype=torch.bool)).equal(torch.zeros_like(y))


@given(data=st.data(), by=st.sampled_from(["episodes", "steps"]), fraction=fractions)
def test_the_best_episodes_in_both_ways(data: st.DataObject, by: str, fraction: float) -> None:
    """With ties and NaN, and bit for bit: a flag that is neither zero nor one is none to other operators."""
    reward = data.draw(st.lists(st.sampled_from([0.0, 1.0, torch.nan]), min_size=1, max_size=12).map(torch.tensor))
    done = data.draw(masks(reward.shape))
    knobs = torch.tensor(fraction), torch.tensor(data.draw(st.sampled_from([1.0, 0.5]))).double(), by
    found = [way(reward, done, *knobs).view(torch.uint8) for way in (_best_by_scatter, _best_by_segments)]
    assert found[0].equal(found[1])


@pytest.mark.parametrize("compiled", [False, True])
def test_a_number_becomes_a_tensor(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the other's dtype, or with all its digits; compiled code computes it in another way."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiled)
    assert scalar(0.3, torch.ones(2)).equal(torch.tensor(0.3))
    for make in (in_double, exact):
        assert make(0.3, CPU).equal(torch.tensor(0.3, dtype=torch.float64))


def test_rows_that_do_not_exist_are_zero() -> None:
    """All along their last axis."""
    assert select_rows(torch.tensor([True, False]), torch.full((2, 2), torch.nan)).nan_to_num(1.0).tolist() == [
        [1.0, 1.0],
        [0.0, 0.0],
    ]


def test_a_given_size_has_no_gradient() -> None:
    """It is a constant, as the mean is."""
    for size in (None, torch.tensor(2.0, requires_grad=True)):
        assert not mean_size(torch.ones(3, requires_grad=True), None, 1e-6, size).requires_grad


def test_the_sigmoid_of_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own formula has all digits of small numbers too."""
    monkeypatch.setattr(reduce, "is_sharded", lambda x: True)
    x = torch.tensor([-1e4, -90.0, -60.0, -1.0, 0.0, 0.5, 30.0, 60.0, 79.0, 100.0, 1e4], dtype=torch.float64)
    expected = torch.from_numpy(-np.logaddexp(0.0, -x.numpy()))
    torch.testing.assert_close(log_sigmoid(x), expected, rtol=1e-12, atol=1e-34)
    torch.testing.assert_close(gradients(log_sigmoid, x)[0], torch.sigmoid(-x), rtol=1e-12, atol=1e-16)


def test_sums_of_generated_code_have_all_digits() -> None:
    """A loop that adds one number after the other would lose the one."""
    with tracing():
        assert total(torch.tensor([1e8, 1.0, -1e8])) == 1.0


@pytest.mark.parametrize("scale", [0.0, 2.0**-149, 1e-30, 1.0, 1e36])
def test_generated_code_divides_by_the_same_mean(scale: float) -> None:
    """Whatever the size of the numbers, the smallest that there are among them, and beside one large number."""
    for x in (torch.tensor([1.0, 0.0, 2.0, 1.0, 3.0, 3.0, 0.0]), torch.eye(2000)[0] * 1e21 * (scale == 1.0)):
        x = x * scale
        with tracing():
            found = over_mean(x, len(x))
        torch.testing.assert_close(found, over_mean(x, len(x)), rtol=1e-6, atol=0)
