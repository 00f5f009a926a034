"""The laws of the corrections: what a trace keeps, what on-policy data give, and whose values are estimated."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from strategies import Trajectories, discounts, end_of, lengths, log_ratios, reals, tensors, trajectories
from torch import Tensor

from offline_losses import (
    bellman_target,
    discounted_return,
    generalized_advantage,
    lambda_return,
    n_step_return,
    retrace_return,
    trace_return,
    tree_backup_return,
    vtrace_advantage,
    vtrace_return,
)

NAN, INF = float("nan"), float("inf")
Estimator = Callable[..., Tensor]


def every_correction(
    x: Trajectories, log_ratio: Tensor, discount: float | Tensor = 0.9, lambda_: float | Tensor = 0.8
) -> dict[str, Tensor]:
    """All five, with bounds that some ratios exceed; the probabilities of the last are made of the ratios."""
    ends, knobs = (x.terminated, x.done), {"discount": discount, "lambda_": lambda_}
    bounds = {"max_ratio": 2.0, "max_trace": 1.5}
    step = (x.reward, x.value, x.next_value)
    return {
        "trace": trace_return(*step, *ends, trace=log_ratio.clamp(max=0.5).exp(), ratio=0.7, discount=discount),
        "retrace": retrace_return(*step, log_ratio, *ends, **knobs),
        "tree": tree_backup_return(*step, log_ratio.clamp(max=0.0), *ends, **knobs),
        "vtrace": vtrace_return(*step, log_ratio, *ends, **knobs, **bounds),
        "advantage": vtrace_advantage(*step, log_ratio, *ends, **knobs, **bounds),
    }


@given(data=st.data(), discount=discounts, lambda_=reals(0.0, 1.0), bounds=st.tuples(reals(0.1, 4.0), reals(0.1, 4.0)))
def test_follows_the_paper(data: st.DataObject, discount: float, lambda_: float, bounds: tuple[float, float]) -> None:
    """Each equals its sum of products over steps, for ratios of zero and infinity too."""
    x = data.draw(trajectories())
    log_ratio = data.draw(log_ratios(tuple(x.reward.shape)))
    log_prob, trace, ratio = log_ratio.clamp(max=0.0), log_ratio.clamp(max=0.5).exp(), data.draw(reals(0.0, 2.0))
    ends, knobs = (x.terminated, x.done), {"discount": discount, "lambda_": lambda_}
    limits = dict(zip(("max_ratio", "max_trace"), bounds, strict=True))
    step = (x.reward, x.value, x.next_value)
    for function, arguments, given_knobs in [
        (trace_return, (*step, *ends), {"trace": trace, "ratio": ratio, "discount": discount}),
        (retrace_return, (*step, log_ratio, *ends), knobs),
        (tree_backup_return, (*step, log_prob, *ends), knobs),
        (vtrace_return, (*step, log_ratio, *ends), knobs | limits),
        (vtrace_advantage, (*step, log_ratio, *ends), knobs | limits),
    ]:
        plain = {name: knob.numpy() if isinstance(knob, Tensor) else knob for name, knob in given_knobs.items()}
        wanted = ORACLES[function.__name__](*(each.numpy() for each in arguments), **plain)
        close(function(*arguments, **given_knobs), wanted, 1e-8)


# The kernel.


@given(x=trajectories(), discount=discounts)
def test_traces_and_ratios_of_one_are_lambda_one(x: Trajectories, discount: float) -> None:
    """c = rho = 1: the value cancels, and the bootstrapped return is left."""
    step, ends = (x.reward, x.value, x.next_value), (x.terminated, x.done)
    got = trace_return(*step, *ends, trace=1.0, discount=discount)
    close(got, lambda_return(x.reward, x.next_value, *ends, discount=discount, lambda_=1.0), 1e-8)
    plain = discounted_return(x.reward, x.done, discount=discount, next_value=x.next_value, terminated=x.terminated)
    close(got, plain, 1e-8)


@given(x=trajectories(), discount=discounts, lambda_=reals(0.0, 1.0))
def test_a_constant_trace_is_the_lambda_return(x: Trajectories, discount: float, lambda_: float) -> None:
    """c = lambda, rho = 1."""
    step, ends, knobs = (x.reward, x.value, x.next_value), (x.terminated, x.done), {"discount": discount}
    got = trace_return(*step, *ends, trace=lambda_, **knobs)
    close(got, lambda_return(x.reward, x.next_value, *ends, lambda_=lambda_, **knobs), 1e-8)


@given(data=st.data(), discount=discounts, lambda_=reals(0.0, 1.0))
def test_the_trace_return_is_the_advantage_above_the_value(
    data: st.DataObject, discount: float, lambda_: float
) -> None:
    """The same with values that contradict each other, as of two networks: V plus the generalized advantage."""
    x = data.draw(trajectories())
    step, ends = (x.reward, data.draw(tensors(tuple(x.reward.shape))), x.next_value), (x.terminated, x.done)
    advantage = generalized_advantage(*step, *ends, discount=discount, lambda_=lambda_)
    close(trace_return(*step, *ends, trace=lambda_, discount=discount), step[1] + advantage, 1e-8)


@given(data=st.data(), discount=discounts)
def test_a_trace_of_zero_ends_the_sum(data: st.DataObject, discount: float) -> None:
    """One error is left of the sum, and none of it if the ratio is zero too."""
    x = data.draw(trajectories())
    ratio = data.draw(tensors(tuple(x.reward.shape), 0.0, 2.0))
    step, ends = (x.reward, x.value, x.next_value), (x.terminated, x.done)
    one = bellman_target(x.reward, x.next_value, x.terminated, discount=discount)
    got = trace_return(*step, *ends, trace=0.0, ratio=ratio, discount=discount)
    close(got, x.value + ratio * (one - x.value))
    close(trace_return(*step, *ends, trace=0.0, ratio=0.0, discount=discount), x.value)


@given(data=st.data(), n=st.integers(1, 12))
def test_traces_that_stop_after_n_steps_are_the_n_step_return(data: st.DataObject, n: int) -> None:
    """For the first step of the axis: c is 1 on the first n - 1 steps and 0 from there on."""
    x = data.draw(trajectories())
    trace = (torch.arange(x.reward.shape[-1]) < n - 1).double().expand_as(x.reward)
    ends = (x.terminated, x.done)
    got = trace_return(x.reward, x.value, x.next_value, *ends, trace=trace, discount=0.9)
    close(got[..., 0], n_step_return(x.reward, x.next_value, *ends, n=n, discount=0.9)[..., 0], 1e-8)


# On the policy's own data.


@given(data=st.data(), discount=discounts, lambda_=reals(0.0, 1.0))
def test_on_policy_all_are_the_lambda_return(data: st.DataObject, discount: float, lambda_: float) -> None:
    """Equal log-probabilities, or a policy that is sure of what was done: ratios and probabilities of one."""
    x = data.draw(trajectories())
    levels: float | Tensor = data.draw(st.sampled_from([lambda_, data.draw(tensors(tuple(x.reward.shape), 0.0, 1.0))]))
    zero, ends, knobs = torch.zeros_like(x.reward), (x.terminated, x.done), {"discount": discount, "lambda_": levels}
    step = (x.reward, x.value, x.next_value)
    wanted = lambda_return(x.reward, x.next_value, *ends, **knobs)
    for function in (vtrace_return, retrace_return, tree_backup_return):
        close(function(*step, zero, *ends, **knobs), wanted, 1e-8)
    close(vtrace_advantage(*step, zero, *ends, **knobs), generalized_advantage(*step, *ends, **knobs), 1e-8)


@given(data=st.data(), discount=discounts)
def test_a_true_value_function_is_reproduced(data: st.DataObject, discount: float) -> None:
    """Without errors there is nothing to correct, whatever the traces: every return is V, every advantage 0."""
    x = data.draw(trajectories())
    following = torch.where(x.terminated, 0.0, x.next_value)
    x = x._replace(reward=x.value - discount * following)
    got = every_correction(x, data.draw(log_ratios(tuple(x.reward.shape))), discount)
    close(got.pop("advantage"), 0.0, 1e-8)
    for estimate in got.values():
        close(estimate, x.value, 1e-8)


# Ratios of zero and infinity.


@given(data=st.data(), discount=discounts)
def test_actions_that_the_policy_never_takes(data: st.DataObject, discount: float) -> None:
    """Log-ratios of minus infinity: V-trace stays at the value, the action values see one step."""
    x = data.draw(trajectories())
    never, step, ends = torch.full_like(x.reward, -INF), (x.reward, x.value, x.next_value), (x.terminated, x.done)
    one = bellman_target(x.reward, x.next_value, x.terminated, discount=discount)
    close(vtrace_return(*step, never, *ends, discount=discount), x.value)
    close(vtrace_advantage(*step, never, *ends, discount=discount), 0.0)
    close(retrace_return(*step, never, *ends, discount=discount), one, 1e-8)
    close(tree_backup_return(*step, never, *ends, discount=discount), one, 1e-8)


@given(data=st.data(), bounds=st.tuples(reals(0.1, 4.0), reals(0.1, 4.0)))
def test_actions_that_the_behavior_never_takes(data: st.DataObject, bounds: tuple[float, float]) -> None:
    """Log-ratios of infinity, and those too large for an exponential, are the bounds; for Retrace one."""
    x = data.draw(trajectories())
    step, ends = (x.reward, x.value, x.next_value), (x.terminated, x.done)
    limits = dict(zip(("max_ratio", "max_trace"), bounds, strict=True))
    for large in (INF, 1e4):
        log_ratio = torch.full_like(x.reward, large)
        close(
            vtrace_return(*step, log_ratio, *ends, discount=0.9, lambda_=0.8, **limits),
            trace_return(*step, *ends, trace=0.8 * min(bounds), ratio=bounds[0], discount=0.9),
            1e-8,
        )
        own = torch.zeros_like(x.reward)
        close(retrace_return(*step, log_ratio, *ends), retrace_return(*step, own, *ends))


@given(data=st.data())
def test_infinite_ratios_have_finite_derivatives(data: st.DataObject) -> None:
    """The gradient of a log-ratio is zero where it is infinite or beyond both bounds, and finite everywhere."""
    x = data.draw(trajectories())
    log_ratio = data.draw(log_ratios(tuple(x.reward.shape)))
    for name in every_correction(x, log_ratio):
        (slope,) = gradients(lambda ratio, name=name: every_correction(x, ratio)[name], log_ratio)
        assert bool(slope.isfinite().all())
        close(torch.where(log_ratio.isinf() | (log_ratio > math.log(2.0)), slope, 0.0), 0.0)


@pytest.mark.parametrize("kind", ["number", "tensor", "steps"])
def test_what_a_factor_of_zero_multiplies_may_be_infinite(kind: str) -> None:
    """At lambda = 0 no later error counts, and at a discount of zero nothing but the rewards."""
    number = {
        "number": float,
        "tensor": lambda x: torch.tensor(x, dtype=torch.float64),
        "steps": lambda x: torch.full((5,), x, dtype=torch.float64),
    }[kind]
    none, one = number(0.0), number(1.0)
    reward, zero = torch.tensor([1.0, 1.0, INF, 1.0, 1.0]).double(), torch.zeros(5).double()
    value, end = torch.tensor([0.0, INF, 0.0, 0.0, INF]).double(), torch.arange(5) == 4
    no, functions = torch.zeros_like(end), (retrace_return, tree_backup_return, vtrace_return, vtrace_advantage)
    found = {
        "trace": lambda r, v: trace_return(r, zero, zero, no, end, trace=none),
        "trace, discount": lambda r, v: trace_return(r, zero, v, no, end, trace=one, discount=none),
    }
    for function in functions:
        found[function.__name__] = lambda r, v, f=function: f(r, zero, zero, zero, no, end, lambda_=none)
        found[f"{function.__name__}, discount"] = lambda r, v, f=function: f(r, zero, v, zero, no, end, discount=none)
    got = trace_return(reward, zero, value, no, end, trace=one, ratio=none)
    assert got.tolist() == zero.tolist()
    for of in found.values():
        assert of(reward, value).tolist() == reward.tolist()
        for slope in gradients(of, reward, value):
            assert bool(slope.isfinite().all())


@pytest.mark.parametrize("function", [retrace_return, tree_backup_return])
def test_what_follows_an_action_that_is_never_taken_may_be_infinite(function: Estimator) -> None:
    """A trace of zero ends the sum, be what follows infinite or too large for its float, in the gradient too."""
    zero, end = torch.zeros(4), torch.arange(4) == 3
    log_ratio = torch.tensor([0.0, 0.0, -INF, 0.0])
    of = lambda r, ratio: function(r, zero, zero, ratio, end, end, discount=1.0)  # noqa: E731
    for large in (INF, 3e38):
        reward = torch.tensor([1.0, 1.0, large, large])
        assert torch.equal(of(reward, log_ratio), torch.tensor([2.0, 1.0, INF, large]))
        slopes = gradients(lambda r, ratio: of(r, ratio)[:2], reward, log_ratio)
        assert slopes[0].tolist() == [1.0, 2.0, 0.0, 0.0]
        assert slopes[1][2] == 0


@pytest.mark.parametrize("function", [retrace_return, tree_backup_return])
def test_a_number_that_is_not_read_has_no_gradient(function: Estimator) -> None:
    """The first log-ratio of each episode may be NaN: the gradient is zero there and the others' as they are."""
    reward, zero = torch.ones(5).double(), torch.zeros(5).double()
    done = torch.tensor([False, True, False, True, False])
    unknown = torch.tensor([NAN, -1.0, NAN, -0.5, NAN]).double()
    of = lambda ratio: function(reward, zero, zero, ratio, done, done)  # noqa: E731
    close(of(unknown), of(unknown.nan_to_num(0.0)))
    (slope,) = gradients(of, unknown)
    close(slope, torch.where(unknown.isnan(), 0.0, 0.99 * unknown.exp()))


# Settings of one kernel.


@given(data=st.data(), discount=discounts, lambda_=reals(0.0, 1.0))
def test_all_are_settings_of_the_trace_return(data: st.DataObject, discount: float, lambda_: float) -> None:
    """c = lambda min(1, pi/mu) of this action for state values, of the next one for action values."""
    x = data.draw(trajectories())
    log_ratio = data.draw(tensors(tuple(x.reward.shape), -2.0, 2.0))
    step, ends, knobs = (x.reward, x.value, x.next_value), (x.terminated, x.done), {"discount": discount}
    cut = log_ratio.exp().clamp(max=1.0)
    close(
        vtrace_return(*step, log_ratio, *ends, lambda_=lambda_, **knobs),
        trace_return(*step, *ends, trace=lambda_ * cut, ratio=cut, **knobs),
        1e-8,
    )
    close(
        retrace_return(*step, log_ratio, *ends, lambda_=lambda_, **knobs),
        trace_return(*step, *ends, trace=lambda_ * cut.roll(-1, -1), **knobs),
        1e-8,
    )
    log_prob = log_ratio.clamp(max=0.0)
    close(
        tree_backup_return(*step, log_prob, *ends, lambda_=lambda_, **knobs),
        trace_return(*step, *ends, trace=lambda_ * log_prob.exp().roll(-1, -1), **knobs),
        1e-8,
    )


@given(data=st.data())
def test_the_first_action_of_an_episode_is_given(data: st.DataObject) -> None:
    """Action values do not depend on their own value, ratio or probability, only on those that come next."""
    x = data.draw(trajectories())
    log_ratio, other = (data.draw(tensors(tuple(x.reward.shape), -2.0, 0.0)) for _ in range(2))
    changed = x._replace(value=x.value.clone())
    changed.value[..., 0], moved = 7.0, log_ratio.clone()
    moved[..., 0] = other[..., 0]
    wanted, got = every_correction(x, log_ratio), every_correction(changed, moved)
    for name in ("retrace", "tree"):
        close(got[name], wanted[name], 1e-8)


@given(data=st.data(), lambda_=reals(0.1, 1.0))
def test_larger_ratios_keep_more_of_a_gain(data: st.DataObject, lambda_: float) -> None:
    """Where every error is a gain, all returns rise with the ratios up to the bound, and with lambda."""
    x = data.draw(trajectories())
    x = x._replace(reward=x.reward.abs() + 20.0)
    low, more = (data.draw(tensors(tuple(x.reward.shape), a, b)) for a, b in ((-3.0, 0.0), (0.0, 1.0)))
    below, above = every_correction(x, low, 0.9, lambda_), every_correction(x, low + more, 0.9, lambda_)
    less = every_correction(x, low, 0.9, 0.5 * lambda_)
    for name in below:
        not_above(below[name], above[name])
        not_above(less[name], below[name])


@given(data=st.data(), lambda_=reals(0.0, 1.0))
def test_log_ratios_have_the_slope_of_their_exponential(data: st.DataObject, lambda_: float) -> None:
    """Below the bounds the first return moves with a log-ratio as with what it multiplies: nothing is detached."""
    x = data.draw(trajectories())
    shape, end = tuple(x.reward.shape), end_of(x)[..., 0]
    log_ratio = data.draw(tensors(shape, -3.0, -0.1))
    step, ends, knobs = (x.reward, x.value, x.next_value), (x.terminated, x.done), {"discount": 0.9, "lambda_": lambda_}

    def slope(function: Estimator) -> Tensor:
        return gradients(lambda ratio: function(*step, ratio, *ends, **knobs)[..., 0], log_ratio)[0]

    def ahead(function: Estimator) -> Tensor:
        """What the traces of the first step multiply."""
        beyond = (function(*step, log_ratio, *ends, **knobs) - x.value).roll(-1, -1)[..., 0]
        return torch.where(end, 0.0, 0.9 * lambda_ * beyond)

    following = log_ratio.roll(-1, -1)[..., 0].exp()
    for function in (retrace_return, tree_backup_return):
        got = slope(function)
        close(got[..., 0], 0.0)
        close(got.roll(-1, -1)[..., 0], following * ahead(function), 1e-8)
    delta = bellman_target(x.reward, x.next_value, x.terminated, discount=0.9) - x.value
    own, plain = log_ratio[..., 0].exp(), delta[..., 0] + ahead(vtrace_return)
    for function in (vtrace_return, vtrace_advantage):
        close(slope(function)[..., 0], own * plain, 1e-8)


@given(data=st.data())
def test_linear_in_rewards_and_values(data: st.DataObject) -> None:
    """So that each is the sum of its rewards and values times their slopes (Euler): none of them is detached."""
    x = data.draw(trajectories())
    log_ratio = data.draw(log_ratios(tuple(x.reward.shape)))
    for name, result in every_correction(x, log_ratio).items():

        def of(*step: Tensor, name: str = name) -> Tensor:
            return every_correction(Trajectories(*step, x.terminated, x.done), log_ratio)[name]

        slopes = gradients(of, *x[:3])
        close(sum((slope * part).sum() for slope, part in zip(slopes, x[:3], strict=True)), result.sum(), 1e-8)


def test_the_defaults() -> None:
    """Discount 0.99, lambda 1, bounds 1, and a ratio of one."""
    one, zero, no = torch.ones(2).double(), torch.zeros(2).double(), torch.zeros(2).bool()
    wanted = 1 + 0.99 * (1 + 0.99)
    for function in (retrace_return, tree_backup_return):
        close(function(one, one, one, zero, no, no)[0], wanted)
    for function in (vtrace_return, vtrace_advantage):
        value = 1.0 if function is vtrace_advantage else 0.0
        close(function(one, one, one, one, no, no)[0], wanted - value)
    close(trace_return(one, one, one, no, no, trace=1.0)[0], wanted)


# Ends.


@given(data=st.data())
def test_a_flat_dataset_is_its_episodes(data: st.DataObject) -> None:
    """On one time axis cut by `done`, each correction equals the one computed episode by episode."""
    parts, ratios = [], []
    for count in data.draw(lengths()):
        done = torch.zeros(count, dtype=torch.bool)
        done[-1] = True
        reward, value, following = (data.draw(tensors((count,), -5.0, 5.0)) for _ in range(3))
        parts.append(Trajectories(reward, value, following, done & data.draw(st.booleans()), done))
        ratios.append(data.draw(log_ratios((count,))))
    flat = Trajectories(*(torch.cat(field) for field in zip(*parts, strict=True)))
    apart = [every_correction(*each) for each in zip(parts, ratios, strict=True)]
    for name, got in every_correction(flat, torch.cat(ratios)).items():
        close(got, torch.cat([part[name] for part in apart]))


@given(data=st.data())
def test_nothing_crosses_an_end(data: st.DataObject) -> None:
    """NaN after a `done`, ratios included, and NaN as a terminated step's next value, reach nothing before it."""
    x = data.draw(trajectories(max_dims=1))
    log_ratio = data.draw(log_ratios(tuple(x.reward.shape)))
    at = data.draw(st.integers(0, x.reward.shape[-1] - 1))
    x.done[..., at] = True
    dirty, unknown = Trajectories(*(field.clone() for field in x)), log_ratio.clone()
    for field in (dirty.reward, dirty.value, dirty.next_value, unknown):
        field[..., at + 1 :] = NAN
    dirty = dirty._replace(next_value=torch.where(x.terminated, NAN, dirty.next_value))
    clean = every_correction(x, log_ratio)
    for name, got in every_correction(dirty, unknown).items():
        close(got[..., : at + 1], clean[name][..., : at + 1])

    def head(*tensors: Tensor) -> Tensor:
        batch = Trajectories(*tensors[:3], x.terminated, x.done)
        return torch.stack(list(every_correction(batch, tensors[3]).values()))[..., : at + 1]

    wanted = gradients(head, *x[:3], log_ratio)
    for slope, plain in zip(gradients(head, *dirty[:3], unknown), wanted, strict=True):
        close(slope[..., : at + 1], plain[..., : at + 1])
        assert bool((plain[..., at + 1 :] == 0).all())


@given(data=st.data())
def test_what_a_terminal_step_hides_has_no_gradient(data: st.DataObject) -> None:
    """A terminated step's next value may be NaN: all gradients stay, those of the knobs included."""
    x = data.draw(trajectories())
    log_ratio = data.draw(tensors(tuple(x.reward.shape), -2.0, 2.0))
    hidden = x._replace(next_value=torch.where(x.terminated, NAN, x.next_value))
    knobs = [torch.tensor(v, dtype=torch.float64) for v in (0.9, 0.8)]

    def of(*tensors: Tensor) -> Tensor:
        batch = Trajectories(*tensors[:3], x.terminated, x.done)
        return torch.stack(list(every_correction(batch, *tensors[3:]).values()))

    wanted = gradients(of, *x[:3], log_ratio, *knobs)
    for slope, plain in zip(gradients(of, *hidden[:3], log_ratio, *knobs), wanted, strict=True):
        close(slope, plain)


@given(data=st.data())
def test_knobs_for_each_step(data: st.DataObject) -> None:
    """A discount and a lambda of one for each step: equal ones are one number, and each enters its own step."""
    x = data.draw(trajectories())
    shape = tuple(x.reward.shape)
    log_ratio, discount, levels = (data.draw(tensors(shape, a, b)) for a, b in ((-2.0, 2.0), (0.0, 1.0), (0.0, 1.0)))
    same = [torch.full_like(x.reward, v) for v in (0.9, 0.8)]
    for got, wanted in zip(
        every_correction(x, log_ratio, *same).values(), every_correction(x, log_ratio).values(), strict=True
    ):
        close(got, wanted)
    got = every_correction(x, log_ratio, discount, levels)
    step, ends = (x.reward.numpy(), x.value.numpy(), x.next_value.numpy()), (x.terminated.numpy(), x.done.numpy())
    knobs = {"discount": discount.numpy(), "lambda_": levels.numpy()}
    bounds = {"max_ratio": 2.0, "max_trace": 1.5}
    close(got["retrace"], ORACLES["retrace_return"](*step, log_ratio.numpy(), *ends, **knobs), 1e-8)
    log_prob = log_ratio.clamp(max=0.0).numpy()
    close(got["tree"], ORACLES["tree_backup_return"](*step, log_prob, *ends, **knobs), 1e-8)
    for name in ("vtrace_return", "vtrace_advantage"):
        wanted = ORACLES[name](*step, log_ratio.numpy(), *ends, **knobs, **bounds)
        close(got["vtrace" if name == "vtrace_return" else "advantage"], wanted, 1e-8)


def test_derivatives_of_both_orders() -> None:
    """Against finite differences: rewards, values, log-ratios and every knob, across both kinds of end."""
    reward, value, following, log_ratio = (torch.randn(2, 3).double().requires_grad_() for _ in range(4))
    knobs = [torch.tensor(v).double().requires_grad_() for v in (0.9, 0.8, 1.7, 1.3)]
    done = torch.tensor([[1, 0, 1], [0, 1, 0]]).bool()
    terminated = torch.tensor([[1, 0, 0], [0, 0, 0]]).bool()

    def of(*x: Tensor) -> tuple[Tensor, ...]:
        ends, (discount, lambda_, most, trace) = (terminated, done), x[4:]
        common = {"discount": discount, "lambda_": lambda_}
        return (
            trace_return(*x[:3], *ends, trace=trace, ratio=most, discount=discount),
            retrace_return(*x[:4], *ends, **common),
            tree_backup_return(*x[:4], *ends, **common),
            vtrace_return(*x[:4], *ends, **common, max_ratio=most, max_trace=trace),
            vtrace_advantage(*x[:4], *ends, **common, max_ratio=most, max_trace=trace),
        )

    assert torch.autograd.gradcheck(of, (reward, value, following, log_ratio, *knobs))
    assert torch.autograd.gradgradcheck(of, (reward, value, following, log_ratio, *knobs))


# Whose values are estimated: a world small enough to go through all its trajectories.


class World(NamedTuple):
    """Rewards, next-state probabilities, and two policies, all for a state and an action."""

    reward: Tensor  # [S, A]
    moves: Tensor  # [S, A, S]
    policy: Tensor  # [S, A]
    behavior: Tensor  # [S, A]


DISCOUNT = 0.8


@pytest.fixture(params=range(3))
def world(request: pytest.FixtureRequest) -> World:
    """Three states and two actions."""
    generator = torch.Generator().manual_seed(request.param)
    draw = [torch.rand(shape, generator=generator).double() for shape in [(3, 2), (3, 2, 3), (3, 2), (3, 2)]]
    share = [(4 * x).softmax(-1) for x in draw[1:]]
    return World(draw[0], *share)


def values_of(world: World, policy: Tensor) -> tuple[Tensor, Tensor]:
    """V and Q of a policy, solved."""
    reward = (policy * world.reward).sum(-1)
    moves = (policy.unsqueeze(-1) * world.moves).sum(1)
    v = torch.linalg.solve(torch.eye(3).double() - DISCOUNT * moves, reward)
    return v, world.reward + DISCOUNT * world.moves @ v


def expectation(world: World, estimate: Callable[[Tensor, Tensor], Tensor], steps: int = 3) -> Tensor:
    """Mean of the estimate at the first step, over all trajectories of the behavior, for each first state and action.

    The estimate is of states `[N, steps + 1]` and actions `[N, steps]`.
    """
    paths = torch.tensor(list(product(*[range(3) if i % 2 == 0 else range(2) for i in range(2 * steps + 1)])))
    state, action = paths[:, ::2], paths[:, 1::2]
    chance = world.moves[state[:, :-1], action, state[:, 1:]].prod(-1)
    chance = chance * world.behavior[state[:, 1:-1], action[:, 1:]].prod(-1)
    total = torch.zeros(3, 2).double()
    return total.index_put((state[:, 0], action[:, 0]), chance * estimate(state, action)[:, 0], accumulate=True)


def ends(action: Tensor) -> tuple[Tensor, Tensor]:
    """Nothing terminates; the axis ends."""
    return torch.zeros_like(action, dtype=torch.bool), torch.zeros_like(action, dtype=torch.bool)


def test_vtrace_estimates_the_policy_that_its_bound_leaves(world: World) -> None:
    """In expectation over the behavior, the values of the policy proportional to min(bound mu, pi) stay.

    Without a bound that is the policy itself, whatever the bound of the trace.
    """
    log_ratio = world.policy.log() - world.behavior.log()
    for most, trace in ((1.0, 1.0), (1.2, 0.5), (INF, 1.0), (INF, INF)):
        kept = torch.minimum(most * world.behavior, world.policy)
        v, _ = values_of(world, kept / kept.sum(-1, keepdim=True))

        def estimate(state: Tensor, action: Tensor, v: Tensor = v, most: float = most, trace: float = trace) -> Tensor:
            taken = state[:, :-1], action
            return vtrace_return(
                world.reward[taken],
                v[state[:, :-1]],
                v[state[:, 1:]],
                log_ratio[taken],
                *ends(action),
                discount=DISCOUNT,
                max_ratio=most,
                max_trace=trace,
            )

        close((world.behavior * expectation(world, estimate)).sum(-1), v, 1e-8)


def test_retrace_and_tree_backup_keep_the_action_values_of_the_policy(world: World) -> None:
    """Whatever the behavior, and at any lambda: Q of the policy is their fixed point."""
    v, q = values_of(world, world.policy)
    log_prob = world.policy.log()

    def step(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return world.reward[state[:, :-1], action], q[state[:, :-1], action], v[state[:, 1:]]

    for lambda_ in (1.0, 0.6):
        for function, table in (
            (retrace_return, log_prob - world.behavior.log()),
            (tree_backup_return, log_prob),
        ):

            def estimate(
                state: Tensor, action: Tensor, f: Estimator = function, x: Tensor = table, lambda_: float = lambda_
            ) -> Tensor:
                taken = x[state[:, :-1], action]
                return f(*step(state, action), taken, *ends(action), discount=DISCOUNT, lambda_=lambda_)

            close(expectation(world, estimate), q, 1e-8)


def test_importance_sampling_needs_no_values(world: World) -> None:
    """Without bounds, from values of zero: the expected return of the policy over these steps."""
    log_ratio, steps = world.policy.log() - world.behavior.log(), 3
    wanted = torch.zeros(3).double()
    for _ in range(steps):
        wanted = (world.policy * (world.reward + DISCOUNT * world.moves @ wanted)).sum(-1)

    def estimate(state: Tensor, action: Tensor) -> Tensor:
        taken, zero = (state[:, :-1], action), torch.zeros(action.shape).double()
        reward, ratios = world.reward[taken], log_ratio[taken]
        bounds = {"max_ratio": INF, "max_trace": INF}
        return vtrace_return(reward, zero, zero, ratios, *ends(action), discount=DISCOUNT, **bounds)

    close((world.behavior * expectation(world, estimate, steps)).sum(-1), wanted, 1e-8)


def test_the_advantage_is_the_gradient_of_the_policy(world: World) -> None:
    """Unbounded, at its own values, it averages to pi/mu times the advantage of the policy, for each action."""
    v, q = values_of(world, world.policy)
    log_ratio = world.policy.log() - world.behavior.log()

    def estimate(state: Tensor, action: Tensor) -> Tensor:
        taken = state[:, :-1], action
        return vtrace_advantage(
            world.reward[taken],
            v[state[:, :-1]],
            v[state[:, 1:]],
            log_ratio[taken],
            *ends(action),
            discount=DISCOUNT,
            max_ratio=INF,
            max_trace=INF,
        )

    close(expectation(world, estimate), world.policy / world.behavior * (q - v.unsqueeze(-1)), 1e-8)
