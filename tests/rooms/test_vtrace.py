"""The laws of V-trace alone: its bounds, and the advantage; what it shares is in `test_corrections`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from comparison import close, gradients
from hypothesis import given
from hypothesis import strategies as st
from strategies import discounts, end_of, log_ratios, reals, tensors, trajectories
from torch import Tensor

from offline_losses import generalized_advantage, trace_return, vtrace_advantage, vtrace_return

INF = float("inf")
BOTH = pytest.mark.parametrize("function", [vtrace_return, vtrace_advantage], ids=lambda f: f.__name__)


def test_a_ratio_too_large_for_the_float_is_bounded_before() -> None:
    """In float32 the ratio e^100 is infinite; times an error of zero it would be NaN."""
    log_ratio, zero, end = torch.tensor([100.0, 100.0]), torch.zeros(2), torch.tensor([False, True])
    leaf = log_ratio.requires_grad_()
    got = vtrace_return(zero, zero, zero, leaf, end, end, max_ratio=5.0) + vtrace_advantage(
        zero, zero, zero, leaf, end, end, max_ratio=5.0
    )
    assert torch.equal(got, zero)
    (slope,) = torch.autograd.grad(got.sum(), leaf)
    assert torch.equal(slope, zero)


@BOTH
def test_the_defaults(function: Callable[..., Tensor]) -> None:
    """Both bounds are one, as in the paper: of ratios above it nothing remains. A trace has the ratio's bound too."""
    reward, zero, end = torch.ones(3).double(), torch.zeros(3).double(), torch.arange(3) == 2
    got = function(reward, zero, zero, zero + 2, end, end)
    close(got, torch.tensor([1 + 0.99 + 0.99**2, 1 + 0.99, 1.0], dtype=torch.float64))
    wide = function(reward, zero, zero, zero + 2, end, end, max_ratio=INF)[-1]
    close(wide, torch.tensor(2.0).double().exp())


def test_no_bound_is_infinity() -> None:
    """Then the ratios themselves: importance sampling for each decision."""
    reward, zero, end = torch.tensor([1.0, 2.0]).double(), torch.zeros(2).double(), torch.tensor([False, True])
    log_ratio = torch.tensor([3.0, 5.0]).double().log()
    got = vtrace_return(reward, zero, zero, log_ratio, end, end, discount=0.5, max_ratio=INF, max_trace=INF)
    close(got, torch.tensor([3 * 1 + 0.5 * 3 * 5 * 2, 10.0]).double())


@given(data=st.data(), discount=discounts)
def test_the_advantage_is_the_ratio_times_one_step_to_the_corrected_value(data: st.DataObject, discount: float) -> None:
    """rho (r + gamma v_{t+1} - V), as in the paper, where V' is V_{t+1}; the bounds are the return's."""
    x = data.draw(trajectories())
    log_ratio = data.draw(log_ratios(tuple(x.reward.shape)))
    bounds = {"max_ratio": data.draw(reals(0.5, 4.0)), "max_trace": data.draw(reals(0.1, 2.0))}
    arguments = (x.reward, x.value, x.next_value, log_ratio, x.terminated, x.done)
    v = vtrace_return(*arguments, discount=discount, **bounds)
    following = torch.where(end_of(x), torch.where(x.terminated, 0.0, x.next_value), v.roll(-1, -1))
    ratio = log_ratio.exp().clamp(max=bounds["max_ratio"])
    wanted = ratio * (x.reward + discount * torch.where(x.terminated, 0.0, following) - x.value)
    sure = ~x.terminated | end_of(x)
    got = vtrace_advantage(*arguments, discount=discount, **bounds)
    close(torch.where(sure, got, 0.0), torch.where(sure, wanted, 0.0), 1e-8)


@given(data=st.data(), bounds=st.tuples(reals(0.1, 2.0), reals(0.1, 2.0)), lambda_=reals(0.0, 1.0))
def test_no_trace_is_above_the_ratio(data: st.DataObject, bounds: tuple[float, float], lambda_: float) -> None:
    """The paper has its fixed point for traces below the ratios only: a larger bound of the trace is that of both."""
    x = data.draw(trajectories())
    step, ends = (x.reward, x.value, x.next_value), (x.terminated, x.done)
    log_ratio = data.draw(log_ratios(tuple(x.reward.shape)))
    ratio = log_ratio.exp().clamp(max=bounds[0])
    limits = dict(zip(("max_ratio", "max_trace"), bounds, strict=True))
    got = vtrace_return(*step, log_ratio, *ends, discount=0.9, lambda_=lambda_, **limits)
    trace = lambda_ * torch.minimum(ratio, torch.tensor(bounds[1]).double())
    close(got, trace_return(*step, *ends, trace=trace, ratio=ratio, discount=0.9), 1e-8)
    for function in (vtrace_return, vtrace_advantage):
        narrow, wide = (
            function(*step, log_ratio, *ends, max_ratio=bounds[0], max_trace=c) for c in (bounds[0], 2.0 * bounds[0])
        )
        close(narrow, wide)


@BOTH
def test_a_small_bound_needs_no_other(function: Callable[..., Tensor]) -> None:
    """The bound of the ratio alone, below one: the first of two rewards of one is 1/2 + 1/4."""
    one, zero, end = torch.ones(2).double(), torch.zeros(2).double(), torch.tensor([False, True])
    got = function(one, zero, zero, zero, end, end, discount=1.0, max_ratio=0.5)
    wanted = 0.5 + 0.25 if function is vtrace_return else 0.5 * (1 + 0.5)
    close(got, torch.tensor([wanted, 0.5]).double())


@given(data=st.data(), discount=discounts, lambda_=reals(0.0, 1.0))
def test_on_policy_with_values_that_contradict_each_other(data: st.DataObject, discount: float, lambda_: float) -> None:
    """As of two networks: the value plus the generalized advantage, and that advantage."""
    x = data.draw(trajectories())
    step, ends = (x.reward, data.draw(tensors(tuple(x.reward.shape))), x.next_value), (x.terminated, x.done)
    same, knobs = torch.zeros_like(x.reward), {"discount": discount, "lambda_": lambda_}
    advantage = generalized_advantage(*step, *ends, **knobs)
    close(vtrace_return(*step, same, *ends, **knobs), step[1] + advantage, 1e-8)
    close(vtrace_advantage(*step, same, *ends, **knobs), advantage, 1e-8)


@BOTH
def test_an_error_of_an_action_that_is_never_taken_may_be_infinite(function: Callable[..., Tensor]) -> None:
    """A ratio of zero keeps it from its own step and from all before: in value and in gradient."""
    reward, zero = torch.tensor([1.0, 1.0, INF, 1.0]).double(), torch.zeros(4).double()
    end, log_ratio = torch.arange(4) == 3, torch.tensor([0.0, 0.0, -INF, 0.0]).double()
    of = lambda r, ratio: function(r, zero, zero, ratio, end, end, discount=1.0)  # noqa: E731
    assert of(reward, log_ratio).tolist() == [2.0, 1.0, 0.0, 1.0]
    by_reward, _ = gradients(of, reward, log_ratio)
    assert bool(by_reward.isfinite().all())
    before = torch.tensor([0.0, -INF, 0.0, 0.0]).double()
    assert of(reward, before).tolist() == [1.0, 0.0, INF, 1.0]
