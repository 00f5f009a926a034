"""The laws of the soft maximum: a variational principle, an integral, and one temperature."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from strategies import (
    batches,
    candidate_masks,
    distinct,
    probabilities,
    reals,
    temperatures,
    tensors,
)
from torch import Tensor

from offline_losses import soft_value, softmax_entropy, softmax_weights

INF = float("inf")
NAN = float("nan")


@st.composite
def rows(draw: st.DrawFn, max_candidates: int = 5) -> Tensor:
    """Candidates q [*batch, N]."""
    shape = (*draw(batches(0, 2, 1, 3)), draw(st.integers(1, max_candidates)))
    return draw(tensors(shape))


def plain_entropy(p: Tensor) -> Tensor:
    return -torch.special.xlogy(p, p).sum(-1)


@given(data=st.data())
def test_follows_the_paper(data: st.DataObject) -> None:
    """Value, weights and entropy equal the loops, with masks, densities and minus infinities."""
    q = data.draw(rows())
    shape = tuple(q.shape)
    q = torch.where(data.draw(candidate_masks(shape)), q, -INF)
    mask = data.draw(st.none() | candidate_masks(shape))
    density = data.draw(st.none() | tensors(shape, -3.0, 3.0))
    t = data.draw(temperatures)
    arrays = {
        "temperature": t,
        "mask": None if mask is None else mask.numpy(),
    }
    known = None if density is None else density.numpy()
    close(
        soft_value(q, log_density=density, temperature=t, mask=mask),
        ORACLES["soft_value"](q.numpy(), log_density=known, **arrays),
    )
    close(
        softmax_weights(q, log_density=density, temperature=t, mask=mask),
        ORACLES["softmax_weights"](q.numpy(), log_density=known, **arrays),
    )
    close(
        softmax_entropy(q, temperature=t, mask=mask),
        ORACLES["softmax_entropy"](q.numpy(), **arrays),
    )


# The variational principle.


@given(data=st.data())
def test_best_trade_of_value_and_entropy(data: st.DataObject) -> None:
    """T lse(q / T) = max over distributions p of <p, q> + T H(p), reached at softmax_weights."""
    q, t = data.draw(rows()), data.draw(temperatures)
    value = soft_value(q, temperature=t)
    anyone = data.draw(probabilities(tuple(q.shape)))
    not_above((anyone * q).sum(-1) + t * plain_entropy(anyone), value)
    best = softmax_weights(q, temperature=t)
    close((best * q).sum(-1) + t * plain_entropy(best), value)
    close((best * q).sum(-1) + t * softmax_entropy(q, temperature=t), value)


@given(data=st.data())
def test_between_the_maximum_and_its_bound(data: st.DataObject) -> None:
    """max <= soft value <= max + T log N."""
    q, t = data.draw(rows()), data.draw(temperatures)
    value, top = soft_value(q, temperature=t), q.amax(-1)
    not_above(top, value)
    not_above(value, top + t * math.log(q.shape[-1]))


@given(data=st.data())
def test_limits_of_the_temperature(data: st.DataObject) -> None:
    """Cold: the maximum and a one-hot choice. Hot: the mean plus T log N, and equal weights."""
    count = data.draw(st.integers(1, 5))
    q = data.draw(distinct((3, count)))
    close(soft_value(q, temperature=1e-4), q.amax(-1), 1e-3)
    choice = torch.nn.functional.one_hot(q.argmax(-1), count).double()
    close(softmax_weights(q, temperature=1e-4), choice)
    close(softmax_entropy(q, temperature=1e-4), 0.0)
    hot = 1e6
    close(soft_value(q, temperature=hot) - hot * math.log(count), q.mean(-1), 1e-3)
    close(softmax_weights(q, temperature=hot), 1 / count, 1e-4)
    close(softmax_entropy(q, temperature=hot), math.log(count), 1e-6)


@given(data=st.data())
def test_rises_with_each_candidate_and_the_temperature(data: st.DataObject) -> None:
    """Raising a candidate or the temperature never lowers the soft value."""
    q, t = data.draw(rows()), data.draw(temperatures)
    raised = q + data.draw(tensors(tuple(q.shape), 0.0, 3.0))
    not_above(soft_value(q, temperature=t), soft_value(raised, temperature=t))
    hotter = t + data.draw(reals(0.0, 3.0))
    not_above(soft_value(q, temperature=t), soft_value(q, temperature=hotter))


# Derivatives.


@given(data=st.data())
def test_the_gradient_is_the_weights(data: st.DataObject) -> None:
    """d value / d q = softmax weights, with or without a density: non-negative, summing to one."""
    q, t = data.draw(rows()), data.draw(temperatures)
    density = data.draw(st.none() | tensors(tuple(q.shape), -3.0, 3.0))
    knobs = {"log_density": density, "temperature": t}
    (slope,) = gradients(lambda x: soft_value(x, **knobs), q)
    close(slope, softmax_weights(q, **knobs))
    assert bool((slope >= 0).all())
    close(slope.sum(-1), 1.0)


@given(data=st.data())
def test_the_temperature_buys_entropy(data: st.DataObject) -> None:
    """d value / d T is the entropy of the softmax (the envelope theorem)."""
    q = data.draw(rows())
    t = torch.tensor(data.draw(temperatures), dtype=torch.float64)
    (slope,) = gradients(lambda x: soft_value(q, temperature=x), t)
    close(slope, softmax_entropy(q, temperature=float(t)).sum(), 1e-8)


@given(data=st.data())
def test_the_density_enters_with_the_temperature(data: st.DataObject) -> None:
    """d value / d log density = -T times the weights: the density is never divided by T."""
    q, t = data.draw(rows()), data.draw(temperatures)
    density = data.draw(tensors(tuple(q.shape), -3.0, 3.0))
    (slope,) = gradients(lambda d: soft_value(q, log_density=d, temperature=t), density)
    close(slope, -t * softmax_weights(q, log_density=density, temperature=t))


@given(data=st.data())
def test_the_entropy_gradient_is_a_mixed_derivative(data: st.DataObject) -> None:
    """dH / dq = d weights / dT, because both are second derivatives of the value."""
    q, t = data.draw(rows()), data.draw(temperatures)
    (slope,) = gradients(lambda x: softmax_entropy(x, temperature=t), q)
    p = softmax_weights(q, temperature=t)
    centered = q - (p * q).sum(-1, keepdim=True)
    close(slope, -p * centered / t**2, 1e-8)


def test_weights_are_constants() -> None:
    """softmax_weights carries no gradient, whatever it is given."""
    q = torch.randn(3, 4, requires_grad=True)
    density = torch.randn(3, 4, requires_grad=True)
    t = torch.tensor(0.7, requires_grad=True)
    weights = softmax_weights(q, log_density=density, temperature=t)
    assert not weights.requires_grad


def test_derivatives_of_both_orders() -> None:
    """Against finite differences: q, the density, the temperature, and a masked row."""
    q = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    density = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    t = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()

    def value(q: Tensor, density: Tensor, t: Tensor) -> Tensor:
        return soft_value(q, log_density=density, temperature=t, mask=mask)

    def spread(q: Tensor, t: Tensor) -> Tensor:
        return softmax_entropy(q, temperature=t, mask=mask)

    assert torch.autograd.gradcheck(value, (q, density, t))
    assert torch.autograd.gradgradcheck(value, (q, density, t))
    assert torch.autograd.gradcheck(spread, (q, t))
    assert torch.autograd.gradgradcheck(spread, (q, t))


# Symmetries.


@given(data=st.data())
def test_shift(data: st.DataObject) -> None:
    """Adding c to every candidate adds c to the value, nothing to weights and entropy."""
    q, t, c = data.draw(rows()), data.draw(temperatures), data.draw(reals())
    density = data.draw(st.none() | tensors(tuple(q.shape), -3.0, 3.0))
    knobs = {"log_density": density, "temperature": t}
    close(soft_value(q + c, **knobs), soft_value(q, **knobs) + c)
    close(softmax_weights(q + c, **knobs), softmax_weights(q, **knobs))
    close(softmax_entropy(q + c, temperature=t), softmax_entropy(q, temperature=t))


@given(data=st.data())
def test_units(data: st.DataObject) -> None:
    """V(a q, a T) = a V(q, T) with the density fixed: T has the unit of q, the density has none."""
    q, t, a = data.draw(rows()), data.draw(temperatures), data.draw(reals(0.1, 5.0))
    density = data.draw(st.none() | tensors(tuple(q.shape), -3.0, 3.0))
    small = {"log_density": density, "temperature": t}
    large = {"log_density": density, "temperature": a * t}
    close(soft_value(a * q, **large), a * soft_value(q, **small), 1e-8)
    close(softmax_weights(a * q, **large), softmax_weights(q, **small), 1e-8)
    close(softmax_entropy(a * q, temperature=a * t), softmax_entropy(q, temperature=t), 1e-8)


@given(data=st.data())
def test_order_of_the_candidates(data: st.DataObject) -> None:
    """The value does not depend on the order; the weights follow it."""
    q, t = data.draw(rows()), data.draw(temperatures)
    order = torch.tensor(data.draw(st.permutations(range(q.shape[-1]))))
    close(soft_value(q[..., order], temperature=t), soft_value(q, temperature=t))
    weights = softmax_weights(q, temperature=t)[..., order]
    close(softmax_weights(q[..., order], temperature=t), weights)


@given(data=st.data())
def test_log_odds(data: st.DataObject) -> None:
    """log w_i - log w_j = (q_i - q_j) / T - (log density_i - log density_j)."""
    q, t = data.draw(rows()), data.draw(reals(1.0, 5.0))
    density = data.draw(tensors(tuple(q.shape), -3.0, 3.0))
    w = softmax_weights(q, log_density=density, temperature=t).log()
    logits = q / t - density
    close(w - w[..., :1], logits - logits[..., :1])
    close(w.exp().sum(-1), 1.0)


@given(data=st.data())
def test_two_candidates_at_a_time(data: st.DataObject) -> None:
    """The soft value of soft values is the soft value of all: grouping does not matter."""
    left, t = data.draw(rows()), data.draw(temperatures)
    right = data.draw(tensors((*left.shape[:-1], 3)))
    groups = torch.stack([soft_value(left, temperature=t), soft_value(right, temperature=t)], -1)
    together = soft_value(torch.cat([left, right], -1), temperature=t)
    close(soft_value(groups, temperature=t), together)


@given(data=st.data())
def test_entropy_bounds(data: st.DataObject) -> None:
    """0 <= H <= log N, and equal candidates reach log N."""
    q, t = data.draw(rows()), data.draw(temperatures)
    spread = softmax_entropy(q, temperature=t)
    top = torch.full_like(spread, math.log(q.shape[-1]))
    not_above(torch.zeros_like(spread), spread)
    not_above(spread, top)
    close(softmax_entropy(torch.zeros_like(q), temperature=t), top)


# The importance-sampled integral T log of the integral of exp(Q / T).


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("count", [1, 10, 1000])
def test_constant_q_measures_the_volume(temperature: float, count: int) -> None:
    """Q = 3 on [-1, 1]^6, uniform proposals: 3 + T log 64 exactly, at every temperature and N."""
    q = torch.full((2, count), 3.0, dtype=torch.float64)
    density = torch.full_like(q, -6 * math.log(2.0))
    value = soft_value(q, log_density=density, temperature=temperature)
    close(value, 3.0 + temperature * math.log(64.0), 1e-12)


@given(data=st.data())
def test_ideal_proposals_have_no_variance(data: st.DataObject) -> None:
    """Where log density = Q / T - c / T, any draw of any size gives exactly c."""
    density = data.draw(rows())
    t, c = data.draw(temperatures), data.draw(reals())
    value = soft_value(t * density + c, log_density=density, temperature=t)
    close(value, c)


@given(data=st.data())
def test_enumerating_all_actions_is_exact(data: st.DataObject) -> None:
    """Each of N actions once, at density 1 / N: the exact value, with no constant left over.

    The estimate is T (lse(q / T + log N) - log N), so log N leaves with the same sign it came in.
    A density of 1 / volume instead leaves T (log volume - log N).
    """
    q, t = data.draw(rows()), data.draw(temperatures)
    log_n = math.log(q.shape[-1])
    uniform = torch.full_like(q, -log_n)
    close(soft_value(q, log_density=uniform, temperature=t), soft_value(q, temperature=t))
    log_volume = data.draw(reals(-2.0, 2.0))
    measured = soft_value(q, log_density=torch.full_like(q, -log_volume), temperature=t)
    close(measured, soft_value(q, temperature=t) + t * (log_volume - log_n))


@given(data=st.data())
def test_repeated_proposals_change_nothing(data: st.DataObject) -> None:
    """Each proposal k times over: the same integral. Without a density: k times the actions."""
    q, t, k = data.draw(rows()), data.draw(temperatures), data.draw(st.integers(2, 4))
    density = data.draw(tensors(tuple(q.shape), -3.0, 3.0))
    many, dense = torch.cat([q] * k, -1), torch.cat([density] * k, -1)
    once = soft_value(q, log_density=density, temperature=t)
    close(soft_value(many, log_density=dense, temperature=t), once)
    close(soft_value(many, temperature=t), soft_value(q, temperature=t) + t * math.log(k))


@given(data=st.data())
def test_a_constant_density_is_a_volume(data: st.DataObject) -> None:
    """Adding c to the log density lowers the value by T c."""
    q, t, c = data.draw(rows()), data.draw(temperatures), data.draw(reals(-3.0, 3.0))
    density = data.draw(tensors(tuple(q.shape), -3.0, 3.0))
    moved = soft_value(q, log_density=density + c, temperature=t)
    close(moved, soft_value(q, log_density=density, temperature=t) - t * c)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_many_proposals_converge_to_the_integral(temperature: float) -> None:
    """Q = -x^2 / 2 has T log of its integral = T log sqrt(2 pi T); Gaussian proposals find it."""
    generator = torch.Generator().manual_seed(0)
    std = 2.0
    x = std * torch.randn(4, 400_000, generator=generator, dtype=torch.float64)
    density = -0.5 * (x / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))
    value = soft_value(-(x**2) / 2, log_density=density, temperature=temperature)
    exact = temperature * 0.5 * math.log(2 * math.pi * temperature)
    close(value, exact, 0.01)


# Candidates that do not exist.


@given(data=st.data())
def test_masking_is_deleting(data: st.DataObject) -> None:
    """A masked candidate, NaN included, is as if it had never been proposed."""
    count = data.draw(st.integers(1, 5))
    q, t = data.draw(tensors((count,))), data.draw(temperatures)
    density = data.draw(st.none() | tensors((count,), -3.0, 3.0))
    mask = data.draw(candidate_masks((count,)))
    hidden = torch.where(mask, q, NAN)
    dense = None if density is None else torch.where(mask, density, NAN)
    kept = None if density is None else density[mask]
    knobs = {"log_density": dense, "temperature": t, "mask": mask}
    few = {"log_density": kept, "temperature": t}
    close(soft_value(hidden, **knobs), soft_value(q[mask], **few))
    weights = softmax_weights(hidden, **knobs)
    close(weights[mask], softmax_weights(q[mask], **few))
    assert bool((weights[~mask] == 0).all())
    spread = softmax_entropy(hidden, temperature=t, mask=mask)
    close(spread, softmax_entropy(q[mask], temperature=t))
    (slope,) = gradients(lambda x: soft_value(x, **knobs), hidden)
    close(slope, weights)
    (slope,) = gradients(lambda x: softmax_entropy(x, temperature=t, mask=mask), hidden)
    assert bool(slope.isfinite().all())
    assert bool((slope[~mask] == 0).all())


@given(data=st.data())
def test_an_impossible_candidate(data: st.DataObject) -> None:
    """q = -inf adds nothing to the sum; among n proposals it still counts: T log((n - 1) / n)."""
    q, t = data.draw(rows()), data.draw(temperatures)
    density = data.draw(tensors(tuple(q.shape), -3.0, 3.0))
    nothing = torch.full((*q.shape[:-1], 1), -INF, dtype=torch.float64)
    more, dense = torch.cat([q, nothing], -1), torch.cat([density, torch.zeros_like(nothing)], -1)
    n = q.shape[-1] + 1
    close(soft_value(more, temperature=t), soft_value(q, temperature=t))
    sampled = soft_value(q, log_density=density, temperature=t) + t * math.log((n - 1) / n)
    close(soft_value(more, log_density=dense, temperature=t), sampled)
    everyone = torch.ones_like(more, dtype=torch.bool)
    close(soft_value(more, log_density=dense, temperature=t, mask=everyone), sampled)
    close(softmax_weights(more, temperature=t)[..., :-1], softmax_weights(q, temperature=t))
    close(softmax_entropy(more, temperature=t), softmax_entropy(q, temperature=t))
    for of in (
        lambda x: soft_value(x, temperature=t),
        lambda x: soft_value(x, log_density=dense, temperature=t),
        lambda x: softmax_entropy(x, temperature=t),
    ):
        (slope,) = gradients(of, more)
        assert bool(slope.isfinite().all())
        assert bool((slope[..., -1] == 0).all())


@pytest.mark.parametrize("density", [False, True])
@pytest.mark.parametrize("how", ["mask", "-inf", "nan"])
def test_an_empty_row_is_zero(how: str, density: bool) -> None:
    """No candidate: value, weights, entropy and all gradients are 0; other rows do not notice."""
    q = torch.randn(3, 4, dtype=torch.float64)
    dense = torch.randn(3, 4, dtype=torch.float64) if density else None
    alone = soft_value(q, log_density=dense)
    mask = torch.ones(3, 4, dtype=torch.bool)
    if how == "-inf":
        q[1] = -INF
    else:
        mask[1] = False
    if how == "nan":
        q[1] = NAN
        if dense is not None:
            dense[1] = NAN
    value = soft_value(q, log_density=dense, mask=mask)
    close(value[[0, 2]], alone[[0, 2]])
    assert value[1] == 0
    assert bool((softmax_weights(q, log_density=dense, mask=mask)[1] == 0).all())
    assert softmax_entropy(q, mask=mask)[1] == 0
    t = torch.tensor(0.7, dtype=torch.float64)
    for of in (
        lambda x, t: soft_value(x, log_density=dense, temperature=t, mask=mask)[1],
        lambda x, t: softmax_entropy(x, temperature=t, mask=mask)[1],
    ):
        slope, slope_t = gradients(of, q, t)
        assert bool((slope == 0).all())
        assert slope_t == 0
    slope, slope_t = gradients(lambda x, t: soft_value(x, log_density=dense, temperature=t, mask=mask), q, t)
    assert bool(slope.isfinite().all())
    assert bool(slope_t.isfinite())
    if dense is not None:
        (slope,) = gradients(lambda d: soft_value(q, log_density=d, mask=mask), dense)
        assert bool((slope[1] == 0).all())
        close(slope[[0, 2]].sum(-1), -1.0)


@given(data=st.data())
def test_one_row_never_moves_another(data: st.DataObject) -> None:
    """Each row is reduced apart: values and gradients of one do not depend on the others."""
    count = data.draw(st.integers(1, 4))
    q, t = data.draw(tensors((3, count))), data.draw(temperatures)
    other = torch.cat([q[:1], data.draw(tensors((2, count)))])
    for of in (soft_value, softmax_entropy, softmax_weights):
        close(of(other, temperature=t)[0], of(q, temperature=t)[0])
    (slope,) = gradients(lambda x: soft_value(x, temperature=t)[0], q)
    assert bool((slope[1:] == 0).all())


@given(data=st.data())
def test_critics_share_the_proposals(data: st.DataObject) -> None:
    """q [E, *batch, N] with one density [*batch, N] is a loop over the critics."""
    shape = (*data.draw(batches(1, 1, 1, 3)), data.draw(st.integers(1, 4)))
    q, t = data.draw(tensors((2, *shape))), data.draw(temperatures)
    knobs = {"log_density": data.draw(tensors(shape, -3.0, 3.0)), "temperature": t}
    for of in (soft_value, softmax_weights):
        close(of(q, **knobs), torch.stack([of(q[e], **knobs) for e in range(2)]))


@pytest.mark.parametrize("temperature", [1e-3, 1.0])
@pytest.mark.parametrize("size", [1e3, 1e30])
def test_extreme_candidates_stay_finite(size: float, temperature: float) -> None:
    """Huge values of either sign: finite results and finite gradients, no overflow of exp."""
    q = torch.tensor([[size, -size, 0.0], [-size, -size, -size]], dtype=torch.float64)
    close(soft_value(q, temperature=temperature)[0], size)
    for of in (soft_value, softmax_entropy):
        value = of(q, temperature=temperature)
        (slope,) = gradients(lambda x, of=of: of(x, temperature=temperature), q)
        assert bool(value.isfinite().all())
        assert bool(slope.isfinite().all())


LOWEST = {dtype: torch.finfo(dtype).min for dtype in (torch.float64, torch.float32, torch.bfloat16)}


@pytest.mark.parametrize("dtype", LOWEST, ids=str)
@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("density", [False, True], ids=["exact", "sampled"])
def test_the_lowest_float_is_a_candidate_that_does_not_exist(
    dtype: torch.dtype, temperature: float, density: bool
) -> None:
    """Masking by `finfo.min` is masking: value, gradients and second derivatives, that of the temperature included."""
    q = torch.tensor([[1.0, 2.0, 0.5], [-3.0, 4.0, 4.0]], dtype=dtype)
    masked = torch.cat([q, torch.full((2, 1), LOWEST[dtype], dtype=dtype)], -1)
    exists = torch.tensor([[True, True, True, False]]).expand(2, 4)
    log_density = torch.tensor([0.3, -0.2, 0.1, 0.4], dtype=dtype).expand(2, 4) if density else None
    t = torch.tensor(temperature, dtype=torch.promote_types(dtype, torch.float32))
    functions = {
        "value": lambda x, t, **kw: soft_value(x, temperature=t, log_density=log_density, **kw),
        "entropy": lambda x, t, **kw: softmax_entropy(x, temperature=t, **kw),
    }
    for name, of in functions.items():
        log_count = math.log(4 / 3) if density and name == "value" else 0.0  # one more sample, of no weight
        for order in (0, 1, 2):
            got, wanted = (derivative(of, masked, t, order, **kw) for kw in ({}, {"mask": exists}))
            if order == 0:
                wanted = [wanted[0] - temperature * log_count]
            for one, other in zip(got, wanted, strict=True):
                if order == 1 and one.ndim == 0:
                    other = other - 2 * log_count
                assert bool(one.isfinite().all()), (name, order)
                close(one, other.to(one.dtype), 1e-2 if dtype == torch.bfloat16 else 1e-5)
    weights = softmax_weights(masked, temperature=temperature)
    assert bool((weights[:, 3] == 0).all())
    close(weights[:, :3], softmax_weights(q, temperature=temperature))


def derivative(of: Callable[..., Tensor], x: Tensor, t: Tensor, order: int, **options: Tensor) -> list[Tensor]:
    """The value; its slopes in x and t; or the slopes of these."""
    x, t = x.clone().requires_grad_(), t.clone().requires_grad_()
    value = of(x, t, **options)
    if order == 0:
        return [value.detach()]
    slopes = torch.autograd.grad(value.sum(), (x, t), create_graph=True)
    if order == 1:
        return [slope.detach() for slope in slopes]
    factor = torch.linspace(0.5, 1.5, x.shape[-1]).to(x)
    return list(torch.autograd.grad((slopes[0] * factor).sum() + slopes[1], (x, t)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_smallest_temperature_gives_the_maximum(dtype: torch.dtype, sign: int) -> None:
    """q / T is beyond every float: the best candidate is subtracted before, so that it alone is left."""
    temperature = torch.finfo(torch.promote_types(dtype, torch.float32)).tiny
    q = sign * torch.tensor([[4.0, 8.0, 6.0], [5.0, 5.0, -2.0]], dtype=dtype).requires_grad_()
    best = (q == q.amax(-1, keepdim=True)).to(dtype)
    best = best / best.sum(-1, keepdim=True)
    for density in (None, torch.tensor([-3.0, 2.0, 0.5], dtype=dtype)):
        value = soft_value(q, temperature=temperature, log_density=density)
        assert torch.equal(value, q.amax(-1).to(value.dtype))
    slope = torch.autograd.grad(soft_value(q, temperature=temperature).sum(), q)[0]
    close(slope, best, 1e-6)
    assert torch.equal(softmax_weights(q, temperature=temperature), best)
    entropy = softmax_entropy(q, temperature=temperature)
    ties = (q == q.amax(-1, keepdim=True)).sum(-1)
    close(entropy, ties.to(entropy.dtype).log(), 1e-6)
    assert bool((torch.autograd.grad(entropy.sum(), q)[0] == 0).all())


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e3, 1e30])
def test_the_whole_range_of_units(scale: float) -> None:
    """In float32, a change of the unit of return changes value and temperature alike, and no weight."""
    q = torch.randn(5, 7)
    density = torch.randn(5, 7)
    for log_density in (None, density):
        wanted = soft_value(q.double(), log_density=None if log_density is None else density.double(), temperature=0.3)
        got = soft_value((q.double() * scale).float(), log_density=log_density, temperature=0.3 * scale)
        close(got.double() / scale, wanted, 1e-5)
    weights = softmax_weights((q.double() * scale).float(), temperature=0.3 * scale)
    close(weights, softmax_weights(q, temperature=0.3), 1e-5)


def test_the_smallest_float_is_a_weight() -> None:
    """What is not rounded to zero counts; the exponential of less is zero in any case."""
    q = torch.tensor([0.0, -744.0, -746.0], dtype=torch.float64)
    assert softmax_weights(q).tolist() == [1.0, math.exp(-744.0), 0.0]


def test_a_missing_candidate_has_no_part_in_the_slope_of_a_small_temperature() -> None:
    """Of one candidate the soft value is its value at every temperature, and its entropy is nothing."""
    q = torch.tensor([2.0, -INF], dtype=torch.float64)
    t = torch.tensor(1e-3, dtype=torch.float64)
    for of in (soft_value, softmax_entropy):
        assert gradients(lambda t, of=of: of(q, temperature=t), t)[0] == 0
