"""The laws of squashing: inverses of each other, odd, rising, with a slope at zero, and digits at both ends."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from strategies import batches, reals, tensors
from torch import Tensor

from offline_losses import signed_hyperbolic, signed_parabolic, symexp, symlog

INF = float("inf")
PAIRS = [(symlog, symexp, {}), (signed_hyperbolic, signed_parabolic, {"epsilon": 1e-3})]
ALL = [symlog, symexp, signed_hyperbolic, signed_parabolic]
each = pytest.mark.parametrize("function", ALL, ids=lambda function: function.__name__)


@given(data=st.data(), epsilon=reals(0.0, 2.0))
def test_both_follow_their_formulas_and_undo_each_other(data: st.DataObject, epsilon: float) -> None:
    """On both sides of zero, in either order."""
    x = data.draw(tensors(data.draw(batches())))
    for there, back, knobs in PAIRS:
        chosen = {"epsilon": epsilon} if knobs else {}
        close(back(there(x, **chosen), **chosen), x)
        close(there(back(x, **chosen), **chosen), x)
        for function in (there, back):
            close(function(x, **chosen), ORACLES[function.__name__](x.numpy(), **chosen))
            close(function(-x, **chosen), -function(x, **chosen))


@each
@given(data=st.data())
def test_the_order_is_kept(function: object, data: st.DataObject) -> None:
    """Sorted numbers stay sorted; squashed ones are no larger."""
    x = data.draw(tensors((6,))).sort().values
    y = function(x)
    not_above(y[:-1], y[1:])
    not_above(*((y.abs(), x.abs() * 1.001) if function in (symlog, signed_hyperbolic) else (x.abs(), y.abs() * 1.001)))


@each
def test_the_slope_at_zero_is_that_of_the_formula(function: object) -> None:
    """Not zero, which the sign times a function of the absolute value would have."""
    (slope,) = gradients(function, torch.zeros(3, dtype=torch.float64))
    wanted = {symlog: 1.0, symexp: 1.0, signed_hyperbolic: 0.501, signed_parabolic: 1 / 0.501}[function]
    close(slope, wanted)
    near = torch.tensor([1e-7, -1e-7], dtype=torch.float64)
    close(gradients(function, near)[0], torch.full((2,), wanted, dtype=torch.float64), 1e-5)


@each
def test_large_and_infinite_numbers(function: object) -> None:
    """Infinity goes to infinity, nothing to NaN, and small numbers keep their digits in float32."""
    x = torch.tensor([INF, -INF, 1e38, -1e38])
    assert function(x)[:2].tolist() == [INF, -INF]
    assert not function(x).isnan().any()
    for slope in gradients(function, x):
        assert not slope.isnan().any()
    small = torch.tensor([1e-6, 3e-5, -1e-7])
    exact = function(small.double())
    assert bool(((function(small).double() / exact - 1).abs() < 3e-7).all())


def test_epsilon_zero_is_the_plain_square_root() -> None:
    """And its inverse the plain square, where the usual form divides by zero."""
    x = torch.tensor([3.0, 8.0]).double()
    close(signed_hyperbolic(x, epsilon=0.0), torch.tensor([1.0, 2.0]).double())
    close(signed_parabolic(torch.tensor([1.0, 2.0]).double(), epsilon=0.0), x)


def test_the_defaults() -> None:
    """Epsilon is 0.001."""
    x = torch.tensor([3.0]).double()
    close(signed_hyperbolic(x), 1.003)
    close(signed_parabolic(torch.tensor([1.003], dtype=torch.float64)), 3.0)


@given(x=tensors((5,), -80.0, 80.0))
def test_in_float32_as_exact_as_the_float(x: Tensor) -> None:
    """Also around the place where the series of the exponential ends."""
    for function in ALL:
        exact = function(x.float().double())
        assert bool(((function(x.float()).double() - exact).abs() <= 4e-7 * exact.abs()).all())
    assert symexp(torch.tensor(0.25)).item() == pytest.approx(math.expm1(0.25), rel=2e-7)


@pytest.mark.parametrize(("x", "epsilon"), [(1e38, 1.0), (3e38, 1e3), (1e36, 100.0), (1e38, 0.5), (1e30, 1e-3)])
def test_the_largest_numbers_have_an_inverse(x: float, epsilon: float) -> None:
    """In float32, against the same in float64, which is that of the formula; the slope too."""
    narrow, wide = (torch.tensor([x], dtype=t, requires_grad=True) for t in (torch.float32, torch.float64))
    found, exact = (signed_parabolic(each, epsilon=epsilon) for each in (narrow, wide))
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0.0)
    formula = ORACLES["signed_parabolic"](wide.detach().numpy(), epsilon=epsilon)
    torch.testing.assert_close(exact, torch.as_tensor(formula), rtol=1e-9, atol=0.0)
    slopes = [torch.autograd.grad(y.sum(), each)[0].double() for y, each in ((found, narrow), (exact, wide))]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=0.0)
