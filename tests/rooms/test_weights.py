"""The laws of the sample weights: monotone, bounded, constant for the gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from strategies import batches, masks, reals, temperatures, tensors
from torch import Tensor

from offline_losses import (
    awr_weights,
    crr_weights,
    effective_sample_size,
    nll_loss,
    normalize_advantage,
    normalize_weights,
    softmax_weights,
)

NAN = float("nan")
INF = float("inf")


@given(data=st.data(), t=temperatures)
def test_follows_the_paper(data: st.DataObject, t: float) -> None:
    """Both families equal their loops; advantages of either sign, clipped or not."""
    advantage = data.draw(tensors(data.draw(batches(0, 2))))
    clip = data.draw(reals(0.5, 100.0))
    knobs = {"temperature": t, "max_weight": clip}
    close(awr_weights(advantage, **knobs), ORACLES["awr_weights"](advantage.numpy(), **knobs))
    close(crr_weights(advantage, **knobs), ORACLES["crr_weights"](advantage.numpy(), **knobs))
    binary = ORACLES["crr_weights"](advantage.numpy(), mode="binary")
    close(crr_weights(advantage, mode="binary"), binary)


def test_a_huge_advantage_is_exactly_the_clip() -> None:
    """1e30 gives max_weight itself, -1e30 gives 0: no overflow, no NaN, no rounding."""
    advantage = torch.tensor([1e30, -1e30, INF, -INF], dtype=torch.float64, requires_grad=True)
    for clip in (100.0, 20.0, 7.0, 1.0):
        for weights in (
            awr_weights(advantage, max_weight=clip),
            crr_weights(advantage, max_weight=clip),
        ):
            assert weights.tolist() == [clip, 0.0, clip, 0.0]
            assert not weights.requires_grad
    small = torch.tensor([1e30], dtype=torch.float32)
    assert awr_weights(small).tolist() == [100.0]
    assert crr_weights(small).tolist() == [20.0]


def test_weights_are_constants() -> None:
    """No weight carries a gradient, whatever it is made of: the advantage cannot chase its weight."""
    x = torch.rand(5, dtype=torch.float64, requires_grad=True)
    t = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    for weights in (
        awr_weights(x, temperature=t),
        crr_weights(x, temperature=t),
        crr_weights(x, mode="binary"),
        normalize_weights(x),
    ):
        assert not weights.requires_grad


@given(data=st.data(), t=temperatures)
def test_monotone_and_bounded(data: st.DataObject, t: float) -> None:
    """A better advantage never weighs less; all weights lie between 0 and the clip."""
    shape = data.draw(batches())
    low = data.draw(tensors(shape, -1e3, 1e3))
    high = low + data.draw(tensors(shape, 0.0, 10.0))
    for of in (awr_weights, crr_weights):
        worse, better = of(low, temperature=t, max_weight=50.0), of(high, temperature=t, max_weight=50.0)
        not_above(worse, better)
        assert bool((worse >= 0).all())
        assert bool((better <= 50.0).all())
    not_above(crr_weights(low, mode="binary"), crr_weights(high, mode="binary"))


@given(data=st.data(), t=temperatures)
def test_the_exponential_law(data: st.DataObject, t: float) -> None:
    """w(A + B) = w(A) w(B) and w(0) = 1 where nothing is clipped; the temperature divides."""
    shape = data.draw(batches())
    one, two = data.draw(tensors(shape, -5.0, 5.0)), data.draw(tensors(shape, -5.0, 5.0))
    wide = {"temperature": t, "max_weight": 1e300}
    for of in (awr_weights, crr_weights):
        close(of(one + two, **wide).log(), (of(one, **wide) * of(two, **wide)).log(), 1e-8)
        close(of(torch.zeros(shape, dtype=torch.float64), **wide), 1.0)
        scaled = of(3 * one, temperature=3 * t, max_weight=50.0)
        close(scaled, of(one, temperature=t, max_weight=50.0), 1e-8)
    close(awr_weights(one, **wide).log(), one / t, 1e-8)


@given(data=st.data(), t=temperatures)
def test_normalized_weights_are_a_softmax(data: st.DataObject, t: float) -> None:
    """Unclipped, normalized exponential weights are n times the softmax of the batch."""
    advantage = data.draw(tensors((data.draw(st.integers(1, 6)),), -5.0, 5.0))
    weights = awr_weights(advantage, temperature=t, max_weight=1e300)
    n = len(advantage)
    close(normalize_weights(weights), n * softmax_weights(advantage, temperature=t))


@given(data=st.data())
def test_the_clip_is_a_ceiling(data: st.DataObject) -> None:
    """min(exp(A / T), clip): the clip touches what is above it and nothing below."""
    advantage = data.draw(tensors(data.draw(batches())))
    clip = data.draw(reals(0.5, 50.0))
    free = awr_weights(advantage, max_weight=1e300)
    close(awr_weights(advantage, max_weight=clip), free.clamp(max=clip))
    edge = torch.tensor([math.log(clip)], dtype=torch.float64)
    close(awr_weights(edge, max_weight=clip), clip)


@pytest.mark.parametrize("of", [awr_weights, crr_weights])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_edge_of_the_clip(of: Callable[..., Tensor], dtype: torch.dtype) -> None:
    """One rounding around log(clip): never above the clip, still monotone, the clip itself behind it."""
    for clip in (2.0, 3.0, 7.0, 20.0, 100.0, 2000 / 7):
        edge = torch.tensor(clip, dtype=dtype).log()
        far = torch.tensor(math.inf, dtype=dtype)
        advantage = torch.stack([edge.nextafter(-far), edge, edge.nextafter(far)])
        weights = of(advantage, max_weight=clip)
        assert bool((weights <= torch.tensor(clip, dtype=dtype)).all())
        assert bool((weights.diff() >= 0).all())
        assert weights[2] == torch.tensor(clip, dtype=dtype)


def test_the_defaults() -> None:
    """AWR clips at 100, CRR at 20; both temperatures are 1; CRR is exponential."""
    advantage = torch.tensor([-1.0, 1.0, 9.0], dtype=torch.float64)
    close(awr_weights(advantage), torch.tensor([math.exp(-1), math.e, 100.0], dtype=torch.float64))
    close(crr_weights(advantage), torch.tensor([math.exp(-1), math.e, 20.0], dtype=torch.float64))


def test_binary_weights_need_an_improvement() -> None:
    """1 for a positive advantage, 0 for zero and below."""
    advantage = torch.tensor([-1.0, -0.0, 0.0, 1e-30, 1.0], dtype=torch.float64)
    assert crr_weights(advantage, mode="binary").tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="mode"):
        crr_weights(advantage, mode="softmax")


# Normalization and its diagnosis.


@given(data=st.data())
def test_normalized_weights_have_mean_one(data: st.DataObject) -> None:
    """Mean one over what exists, in the old proportions; zeros stay zeros; masked entries are 0."""
    shape = data.draw(batches())
    weight, mask = data.draw(tensors(shape, 0.0, 5.0)), data.draw(st.none() | masks(shape))
    exists = torch.ones(shape, dtype=torch.bool) if mask is None else mask
    hidden = torch.where(exists, weight, NAN)
    got = normalize_weights(hidden, mask=mask)
    total = float(weight[exists].sum())
    if total > 0:
        close(got[exists].mean(), 1.0)
        close(got[exists] * total, weight[exists] * int(exists.sum()))
        close(got, ORACLES["normalize_weights"](weight.numpy(), mask=exists.numpy()))
    else:
        assert bool((got == 0).all())
    assert bool((got[~exists] == 0).all())


@given(data=st.data(), c=reals(0.1, 100.0))
def test_the_unit_of_a_weight_does_not_matter(data: st.DataObject, c: float) -> None:
    """A common factor changes neither normalized weights nor the effective sample size."""
    weight = data.draw(tensors(data.draw(batches()), 0.0, 5.0))
    close(normalize_weights(c * weight), normalize_weights(weight), 1e-8)
    close(effective_sample_size(c * weight), effective_sample_size(weight), 1e-8)
    once = normalize_weights(weight)
    close(normalize_weights(once), once)
    close(effective_sample_size(once), effective_sample_size(weight), 1e-8)


@given(data=st.data())
def test_the_effective_sample_size_counts(data: st.DataObject) -> None:
    """Between 1 and n; k equal weights among zeros count k; masked weights do not count."""
    count = data.draw(st.integers(1, 8))
    weight, mask = data.draw(tensors((count,), 0.01, 5.0)), data.draw(masks((count,)))
    size = effective_sample_size(weight)
    assert size.dim() == 0
    assert 1 - 1e-9 <= float(size) <= count + 1e-9
    close(size, ORACLES["effective_sample_size"](weight.numpy()))
    equal = torch.where(mask, 0.3, torch.zeros_like(weight))
    close(effective_sample_size(equal), float(mask.sum()))
    hidden = torch.where(mask, weight, NAN)
    close(effective_sample_size(hidden, mask=mask), effective_sample_size(weight[mask]))


@given(data=st.data())
def test_copies_multiply_the_sample_size(data: st.DataObject) -> None:
    """The same weights k times over: k times the effective size. One dominating weight: one."""
    weight = data.draw(tensors((data.draw(st.integers(1, 6)),), 0.01, 5.0))
    close(effective_sample_size(weight.repeat(3)), 3 * effective_sample_size(weight))
    weight[0] = 1e12
    close(effective_sample_size(weight), 1.0)


def test_no_weight_at_all() -> None:
    """Nothing but zeros, or nothing that exists: size 0 and weights 0, not NaN."""
    zeros = torch.zeros(3, dtype=torch.float64)
    nobody = torch.zeros(3, dtype=torch.bool)
    for weight, mask in ((zeros, None), (zeros + 1, nobody), (zeros + NAN, nobody)):
        assert effective_sample_size(weight, mask=mask) == 0
        assert normalize_weights(weight, mask=mask).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("end", ["largest", "smallest"])
def test_weights_at_the_ends_of_the_float(dtype: torch.dtype, end: str) -> None:
    """Their scale does not matter: neither their sum nor their squares need to be floats."""
    limits = torch.finfo(dtype)
    scale = limits.max / 4 if end == "largest" else limits.tiny
    weight = scale * torch.tensor([1.0, 2.0, 3.0, 0.0], dtype=dtype)
    close(effective_sample_size(weight), torch.tensor(36 / 14, dtype=dtype), 1e-6)
    close(normalize_weights(weight), torch.tensor([2 / 3, 4 / 3, 2.0, 0.0], dtype=dtype), 1e-6)
    mask = torch.tensor([True, False, True, True])
    close(effective_sample_size(weight, mask=mask), torch.tensor(1.6, dtype=dtype), 1e-6)
    close(normalize_weights(weight, mask=mask), torch.tensor([0.75, 0.0, 2.25, 0.0], dtype=dtype), 1e-6)
    if end == "largest":  # at the other end the slope itself is no float
        slope = gradients(lambda w: effective_sample_size(w) * scale, weight)[0]
        wanted = gradients(effective_sample_size, torch.tensor([1.0, 2.0, 3.0, 0.0], dtype=dtype))[0]
        close(slope, wanted, 1e-5)


@pytest.mark.parametrize("of", [awr_weights, crr_weights])
def test_no_bound(of: Callable[..., Tensor]) -> None:
    """An infinite bound is none, the plain exponential."""
    advantage = torch.linspace(-90, 90, 19, dtype=torch.float64)
    close(of(advantage, max_weight=INF), advantage.exp(), 1e-12)
    assert of(torch.tensor([100.0]), max_weight=INF).isinf().all()


@pytest.mark.parametrize("of", [awr_weights, crr_weights])
def test_a_bound_beyond_half_precision_is_its_largest_number(of: Callable[..., Tensor]) -> None:
    """A finite bound gives finite weights, in float16 too."""
    weights = of(torch.tensor([1.0, 200.0], dtype=torch.float16), max_weight=1e6)
    assert weights.tolist() == [pytest.approx(math.e, rel=1e-3), 65504.0]


def test_no_weight_is_no_loss() -> None:
    """Zero times an infinite loss is zero: an action that the policy cannot take, and that nobody shall imitate."""
    log_prob = torch.tensor([-1.0, -INF, -INF], requires_grad=True)
    weight = torch.tensor([2.0, 0.0, 0.0])
    loss = nll_loss(log_prob, weight=weight, reduction="sum")
    loss.backward()
    assert loss == 2
    assert log_prob.grad is not None
    assert log_prob.grad.tolist() == [-2, 0, 0]
    assert nll_loss(log_prob, weight=torch.tensor([2.0, 0.0, 1.0])).isinf()


# An advantage of a moving scale.


@given(data=st.data(), rate=reals(0.01, 1.0), last=reals(0.1, 5.0))
def test_the_scale_moves_towards_the_batch(data: st.DataObject, rate: float, last: float) -> None:
    """As the loop says, with a mask; at rate one the batch's root mean square is one."""
    advantage, mask = data.draw(tensors((5,))), data.draw(masks((5,)))
    state = torch.tensor(last, dtype=torch.float64)
    found = normalize_advantage(advantage, state, rate=rate, mask=mask)
    wanted = ORACLES["normalize_advantage"](advantage.numpy(), state.numpy(), rate=rate, mask=mask.numpy())
    close(found.advantage, wanted[0])
    close(found.mean_square, wanted[1])
    whole = normalize_advantage(advantage, state, rate=1.0)
    close(whole.mean_square, advantage.square().mean())
    if advantage.any():
        close(whole.advantage.square().mean(), 1.0)


def test_a_constant_advantage_becomes_one() -> None:
    """After enough steps, each of which hands its mean square on; a unit of reward changes nothing by then."""
    advantage = torch.full((3,), 7.0, dtype=torch.float64)
    for scale in (1.0, 100.0):
        state = torch.tensor(100.0, dtype=torch.float64)
        for _ in range(300):
            normalized, state = normalize_advantage(scale * advantage, state, rate=0.1)
        close(normalized, 1.0, 1e-6)


def test_the_moving_scale_is_a_constant_and_may_be_zero() -> None:
    """It carries no gradient from step to step; zero advantages stay zero; no samples leave it as it was."""
    advantage = torch.tensor([1.0, -2.0], requires_grad=True)
    normalized, state = normalize_advantage(advantage, torch.tensor(4.0, requires_grad=True), rate=0.5)
    assert not state.requires_grad
    (slope,) = torch.autograd.grad(normalized.sum(), advantage)
    close(slope, torch.full((2,), (0.5 * 4 + 0.5 * 2.5) ** -0.5), 1e-6)
    (slope,) = gradients(lambda x: normalize_advantage(x, torch.tensor(0.0)).advantage, torch.zeros(2))
    assert slope.tolist() == [0, 0]
    assert normalize_advantage(torch.zeros(2), torch.tensor(0.0)).advantage.tolist() == [0, 0]
    for nothing in ((torch.zeros(0), None), (torch.ones(2), torch.zeros(2, dtype=torch.bool))):
        assert normalize_advantage(nothing[0], torch.tensor(4.0), mask=nothing[1]).mean_square == 4
    close(normalize_advantage(torch.zeros(2), torch.tensor(1.0)).mean_square, 0.99)


def test_a_mean_square_in_float64_holds_every_float32() -> None:
    """The square of an advantage of 1e30 is none in float32, nor is that of 1e-30."""
    for size in (1e30, 1e-30):
        advantage, state = torch.tensor([size, -size]), torch.tensor(0.0, dtype=torch.float64)
        normalized, state = normalize_advantage(advantage, state, rate=0.25)
        close(normalized, torch.tensor([2.0, -2.0], dtype=torch.float64))
        close(state / size**2, 0.25, 1e-6)


def test_an_advantage_that_is_no_number_shows() -> None:
    """It is not divided away, and neither is what it makes of the mean square."""
    found = normalize_advantage(torch.tensor([math.nan, 1.0]), torch.tensor(1.0))
    assert found.advantage.isnan().all()
    assert found.mean_square.isnan()
