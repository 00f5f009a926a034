"""The laws of the implicit values: where each loss is least, how it bends, and that samples do not meet."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats
from strategies import batches, distinct, levels, masks, reals, residuals, temperatures, tensors
from torch import Tensor

from offline_losses import (
    awr_weights,
    binary_expectile_loss,
    expectile_loss,
    exponential_value_loss,
    gumbel_loss,
    soft_value,
    sparse_value_loss,
    sparse_weights,
    squared_loss,
)
from offline_losses._compile import twin

Loss = Callable[..., Tensor]

LOSSES = [gumbel_loss, exponential_value_loss, sparse_value_loss, binary_expectile_loss]
BY_TEMPERATURE = LOSSES[:3]
EXPONENTIAL = LOSSES[:2]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
each_temperature = pytest.mark.parametrize("loss", BY_TEMPERATURE, ids=lambda loss: loss.__name__)
each_exponential = pytest.mark.parametrize("loss", EXPONENTIAL, ids=lambda loss: loss.__name__)
UNBOUNDED = 50.0
"""As large an exponent as may be asked for."""


def slope_at(loss: Loss, constant: float | Tensor, sample: Tensor, **knobs: float) -> Tensor:
    """The derivative of the mean loss with respect to one prediction for the whole sample."""
    at = torch.as_tensor(constant, dtype=torch.float64)
    (slope,) = gradients(lambda c: loss(c.expand_as(sample), sample, **knobs), at)
    return slope


def least(loss: Loss, sample: Tensor, **knobs: float) -> float:
    """The constant at which the mean loss is least, between the smallest and the largest target."""
    low, high = sample.min().item() - 1e-3, sample.max().item() + 1e-3
    found: float = optimize.brentq(lambda c: slope_at(loss, c, sample, **knobs).item(), low, high, xtol=1e-12)
    return found


@each_loss
@given(data=st.data())
def test_a_sample_does_not_see_its_neighbors(loss: Loss, data: st.DataObject) -> None:
    """Alone or in a batch, beside outliers or not: the same loss and the same gradient."""
    prediction, target = data.draw(tensors((4,))), data.draw(tensors((4,), 0.0, 1.0))
    outlier = torch.cat([target[:3], torch.tensor([1e3], dtype=torch.float64)])
    both = loss(prediction, target, reduction="none")
    close(loss(prediction[:1], target[:1], reduction="none"), both[:1])
    close(loss(prediction, outlier, reduction="none")[:3], both[:3])
    (slope,) = gradients(lambda x: loss(x, outlier, reduction="sum"), prediction)
    (plain,) = gradients(lambda x: loss(x, target, reduction="sum"), prediction)
    close(slope[:3], plain[:3])


@each_loss
@given(data=st.data())
def test_micro_batches_add_up(loss: Loss, data: st.DataObject) -> None:
    """Sums over parts, divided once by the global count, are the mean of the whole."""
    count = data.draw(st.integers(2, 8))
    prediction, target = data.draw(tensors((count,))), data.draw(tensors((count,), 0.0, 1.0))
    mask, weight = data.draw(masks((count,))), data.draw(tensors((count,), 0.0, 3.0))
    at = data.draw(st.integers(1, count - 1))
    parts = [
        loss(prediction[s], target[s], mask=mask[s], weight=weight[s], reduction="sum")
        for s in (slice(None, at), slice(at, None))
    ]
    whole = loss(prediction, target, mask=mask, weight=weight)
    close(whole, (parts[0] + parts[1]) / max(1, int(mask.sum())))


@each_temperature
@given(data=st.data())
def test_convex_in_the_prediction(loss: Loss, data: st.DataObject) -> None:
    """On a chord the loss is at most the chord, across the place where an exponential becomes a line too."""
    shape = data.draw(batches())
    left, right, target = (data.draw(tensors(shape)) for _ in range(3))
    part, temperature = data.draw(reals(0.0, 1.0)), data.draw(temperatures)
    between = loss(part * left + (1 - part) * right, target, temperature=temperature, reduction="none")
    chord = part * loss(left, target, temperature=temperature, reduction="none")
    chord = chord + (1 - part) * loss(right, target, temperature=temperature, reduction="none")
    not_above(between, chord)


@each_temperature
@given(data=st.data())
def test_units_do_not_matter(loss: Loss, data: st.DataObject) -> None:
    """Prediction, target and temperature in other units give the same loss."""
    shape = data.draw(batches())
    prediction, target = data.draw(tensors(shape)), data.draw(tensors(shape))
    unit, temperature = data.draw(reals(0.1, 5.0)), data.draw(temperatures)
    scaled = loss(unit * prediction, unit * target, temperature=unit * temperature)
    close(scaled, loss(prediction, target, temperature=temperature))


@each_loss
@given(data=st.data())
def test_masked_samples_do_not_reach_a_learned_knob(loss: Loss, data: st.DataObject) -> None:
    """Its gradient is that of the existing samples, though the others are NaN."""
    x = torch.tensor([0.3, float("nan"), -0.4], dtype=torch.float64)
    y, mask = torch.tensor([0.6, float("nan"), 0.2], dtype=torch.float64), torch.tensor([True, False, True])
    name = "expectile" if loss is binary_expectile_loss else "temperature"
    knob = torch.tensor(data.draw(reals(0.2, 0.8)), dtype=torch.float64)
    (slope,) = gradients(lambda k: loss(x, y, mask=mask, **{name: k}), knob)
    (plain,) = gradients(lambda k: loss(x[mask], y[mask], **{name: k}), knob)
    assert plain != 0
    close(slope, plain)


# Exponential: Gumbel regression, and the value of EQL.


@each_exponential
@given(data=st.data())
def test_the_minimizer_is_the_soft_maximum(loss: Loss, data: st.DataObject) -> None:
    """T log mean e^(target / T), which is the soft value of the targets under equal densities."""
    sample, temperature = data.draw(distinct((data.draw(st.integers(2, 10)),))), data.draw(temperatures)
    best = soft_value(sample, log_density=torch.zeros_like(sample), temperature=temperature)
    close(best, temperature * ((sample / temperature).logsumexp(0) - math.log(len(sample))))
    knobs = {"temperature": temperature, "max_exponent": UNBOUNDED}
    close(slope_at(loss, best, sample, **knobs) * temperature, 0.0, 1e-8)
    for step in (-0.1, 0.1):
        assert step * slope_at(loss, best + step, sample, **knobs) > 0


@each_exponential
def test_beyond_the_bound_the_minimizer_is_below_the_soft_maximum(loss: Loss) -> None:
    """One target among many that is so far above that its exponent is bounded pulls no more than at the bound.

    Whatever the bound, the weights, each at most e^bound, have mean one.
    """
    sample, temperature = torch.zeros(1000, dtype=torch.float64), 0.01
    sample[0] = 1.0
    soft = temperature * ((sample / temperature).logsumexp(0) - math.log(1000)).item()
    assert soft == pytest.approx(0.9309, abs=1e-4)
    for bound in (5.0, 6.9, 6.92, 7.5):
        found = least(loss, sample, temperature=temperature, max_exponent=bound)
        weights = awr_weights(sample - found, temperature=temperature, max_weight=math.exp(bound))
        close(weights.mean(), 1.0, 1e-8)
        if (1 - soft) / temperature < bound:
            assert found == pytest.approx(soft, abs=1e-9)
        else:
            alone = -temperature * math.log((1000 - math.exp(bound)) / 999)  # 999 weights at zero make up the mean
            assert found == pytest.approx(alone, abs=1e-9)
            assert found < soft - 0.5 * (bound < 6)
    assert least(exponential_value_loss, sample, temperature=temperature) == pytest.approx(0.0016, abs=1e-4)
    assert least(gumbel_loss, sample, temperature=temperature) == pytest.approx(soft, abs=1e-9)


@each_temperature
@given(data=st.data())
def test_what_is_fitted_is_the_regularized_value(loss: Loss, data: st.DataObject) -> None:
    """The return under the weights less T times w log w; for χ², less T times w(w − 1) and T times their variance."""
    sample, temperature = data.draw(distinct((6,))), data.draw(temperatures)
    sparse = loss is sparse_value_loss
    best = least(loss, sample, temperature=temperature, **({} if sparse else {"max_exponent": UNBOUNDED}))
    if sparse:
        w = sparse_weights(sample - best, temperature=temperature)
        value = (w * sample - temperature * w * (w - 1)).mean() - temperature * w.var(correction=0)
    else:
        w = awr_weights(sample - best, temperature=temperature, max_weight=math.inf)
        value = (w * sample + temperature * torch.special.entr(w)).mean()
    close(value, best, 1e-6)


@given(data=st.data())
def test_the_two_differ_by_what_no_prediction_changes(data: st.DataObject) -> None:
    """1 + target / T, beyond the bound too."""
    shape = data.draw(batches())
    prediction, target = data.draw(tensors(shape)), data.draw(tensors(shape))
    knobs = {"temperature": data.draw(temperatures), "max_exponent": data.draw(reals(0.1, 8.0))}
    one = exponential_value_loss(prediction, target, reduction="none", **knobs)
    other = gumbel_loss(prediction, target, reduction="none", **knobs)
    close(one, other + 1 + target / knobs["temperature"], 1e-8)


@given(data=st.data())
def test_at_the_optimum_exponential_weights_have_mean_one(data: st.DataObject) -> None:
    """They are a ratio of densities."""
    sample, temperature = data.draw(distinct((6,))), data.draw(temperatures)
    best = least(exponential_value_loss, sample, temperature=temperature, max_exponent=UNBOUNDED)
    close(awr_weights(sample - best, temperature=temperature, max_weight=math.inf).mean(), 1.0, 1e-7)


@given(data=st.data())
def test_the_minimizer_falls_as_the_temperature_rises(data: st.DataObject) -> None:
    """From the maximum of the targets to their mean."""
    sample = data.draw(distinct((8,)))
    found = [
        least(gumbel_loss, sample, temperature=temperature, max_exponent=UNBOUNDED)
        for temperature in (0.5, 1.0, 4.0, 1e5)
    ]
    assert found == sorted(found, reverse=True)
    assert sample.max() - found[0] <= 0.5 * math.log(8)
    assert found[-1] == pytest.approx(sample.mean().item(), abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fused", [False, True], ids=["eager", "fused"])
def test_a_large_temperature_gives_the_squared_loss(
    dtype: torch.dtype, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over 2 T^2, to all digits of the dtype and in generated code, though one minus one is what is left of e^z."""
    monkeypatch.setattr(twin, "SMALL", 0)
    function = twin.fuse(gumbel_loss) if fused else gumbel_loss
    prediction, target = torch.randn(2, 64, dtype=dtype)
    prediction.requires_grad_()
    for temperature in (1e6, 1e10):
        loss = function(prediction, target, temperature=temperature)
        square = squared_loss(prediction, target) / 2
        torch.testing.assert_close(loss * temperature**2, square, rtol=1e-5, atol=0)
        slopes = (torch.autograd.grad(x, prediction)[0] for x in (loss * temperature**2, square))
        torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-12)


@given(data=st.data())
def test_gumbel_is_zero_exactly_at_the_target(data: st.DataObject) -> None:
    """No residual costs nothing and moves nothing; any other one costs something, the smallest in float32 too."""
    target = data.draw(tensors(data.draw(batches()))).float()
    away = target + data.draw(residuals(tuple(target.shape))).float()
    temperature = data.draw(st.sampled_from([0.5, 1.0, 100.0]))
    (slope,) = gradients(lambda p: gumbel_loss(p, target, temperature=temperature), target)
    assert bool((gumbel_loss(target, target, temperature=temperature, reduction="none") == 0).all())
    assert bool((slope == 0).all())
    assert bool((gumbel_loss(away, target, temperature=temperature, reduction="none") > 0).all())


@given(data=st.data())
def test_the_series_and_the_difference_meet(data: st.DataObject) -> None:
    """On both sides of where one follows the other the loss is the same function."""
    sign = data.draw(st.sampled_from([-1.0, 1.0]))
    z = sign * (0.25 + torch.tensor([-1e-9, 0.0, 1e-9], dtype=torch.float64))
    slope = (0.25 * sign + torch.zeros(3, dtype=torch.float64)).expm1()
    loss = gumbel_loss(torch.zeros_like(z), z, reduction="none")
    close(loss, slope - 0.25 * sign + slope * (z - 0.25 * sign), 1e-14)
    found = gradients(lambda p: gumbel_loss(p, z, reduction="sum"), torch.zeros_like(z))[0]
    close(found, -z.expm1(), 1e-14)


@each_exponential
@given(data=st.data())
def test_beyond_the_bound_the_loss_is_its_tangent(loss: Loss, data: st.DataObject) -> None:
    """The gradient stays what it is at the bound: it neither explodes nor dies, nor does it jump there."""
    bound, temperature = data.draw(reals(0.1, 8.0)), data.draw(temperatures)
    knobs = {"temperature": temperature, "max_exponent": bound}
    target = temperature * (bound + torch.tensor([0.0, 1e-9, 1.0, 1e6, 1e30], dtype=torch.float64))
    (slope,) = gradients(lambda p: loss(p, target, reduction="sum", **knobs), torch.zeros_like(target))
    close(slope * temperature, (1 - math.exp(bound)) * torch.ones_like(slope), 1e-7)
    values = loss(torch.zeros_like(target), target, reduction="none", **knobs)
    assert bool(values.isfinite().all())
    close(values[2] - values[0], math.exp(bound) - (loss is gumbel_loss), 1e-8)
    below = target[:1] - temperature * bound / 2
    free = {"temperature": temperature, "max_exponent": UNBOUNDED}
    close(loss(torch.zeros(1).double(), below, **knobs), loss(torch.zeros(1).double(), below, **free))


@each_exponential
def test_infinite_targets_have_their_limits(loss: Loss) -> None:
    """An infinite loss where the curve is, and everywhere the gradient of the line."""
    target = torch.tensor([math.inf, -math.inf], dtype=torch.float64)
    zero = torch.zeros_like(target)
    values = loss(zero, target, temperature=0.5, reduction="none")
    assert values.tolist() == [math.inf, math.inf if loss is gumbel_loss else 0.0]
    (slope,) = gradients(lambda p: loss(p, target, temperature=0.5, max_exponent=3.0, reduction="sum"), zero)
    close(slope, torch.tensor([2 * (1 - math.exp(3.0)), 2.0], dtype=torch.float64))


@each_temperature
def test_infinite_predictions_have_their_limits(loss: Loss) -> None:
    """Far too low costs ∞ in spite of the price, and pulls up as one very low does; too high costs ∞."""
    prediction = torch.tensor([-math.inf, -1e30, math.inf], dtype=torch.float64)
    target = torch.tensor([2.0, 2.0, -5.0], dtype=torch.float64)
    values = loss(prediction, target, temperature=0.5, reduction="none")
    assert values[::2].tolist() == [math.inf, math.inf]
    assert loss(prediction[:1], torch.full((1,), math.inf).double()).item() == math.inf
    slope, _ = gradients(lambda p, y: loss(p, y, temperature=0.5, reduction="sum"), prediction, target)
    close(slope[2], 2.0)
    close(slope[0], -math.inf if loss is sparse_value_loss else slope[1].item(), 1e-2)


@each_exponential
@pytest.mark.parametrize("max_exponent", [7.0, 50.0])
def test_no_target_overflows(loss: Loss, max_exponent: float) -> None:
    """In float32 too, at a small temperature."""
    prediction = torch.tensor([0.0, 0.0, -1e3], requires_grad=True)
    result = loss(prediction, torch.tensor([100.0, -100.0, 50.0]), temperature=0.1, max_exponent=max_exponent)
    result.backward()
    assert result.isfinite()
    assert prediction.grad is not None
    assert bool(prediction.grad.isfinite().all())
    assert bool((prediction.grad != 0).all())


def test_the_defaults() -> None:
    """Temperature one; the curve ends at 7, that of EQL at 5; expectile 0.7."""
    zero, far = torch.zeros(1, dtype=torch.float64), torch.full((1,), 10.0, dtype=torch.float64)
    close(gumbel_loss(zero, far), math.exp(7.0) * 4 - 11)
    close(exponential_value_loss(zero, far), math.exp(5.0) * 6)
    close(sparse_value_loss(zero, far), 36.0)
    close(sparse_weights(far), torch.full_like(far, 6.0))
    close(binary_expectile_loss(zero, zero + 1), 0.7 * math.log(2))


# Sparse: the value and the policy of SQL.


@given(data=st.data())
def test_at_the_optimum_sparse_weights_have_mean_one(data: st.DataObject) -> None:
    """The weights are the ratio of two densities, of which the second is the data's."""
    sample, temperature = data.draw(distinct((data.draw(st.integers(2, 10)),))), data.draw(temperatures)
    best = least(sparse_value_loss, sample, temperature=temperature)
    close(sparse_weights(sample - best, temperature=temperature).mean(), 1.0, 1e-8)
    for step in (-0.1, 0.1):
        assert step * slope_at(sparse_value_loss, best + step, sample, temperature=temperature) > 0


@given(data=st.data())
def test_the_sparse_value_lies_between_mean_and_maximum(data: st.DataObject) -> None:
    """It is the mean where no target is far below it, as at a large temperature, and rises as the temperature falls."""
    sample = data.draw(distinct((6,)))
    found = [least(sparse_value_loss, sample, temperature=t) for t in (1e-3, 0.3, 1.0, 30.0)]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(sample.max().item(), abs=0.02)
    assert found[-1] == pytest.approx(sample.mean().item(), abs=1e-8)


@given(data=st.data())
def test_the_sparse_gradient_is_what_the_weight_lacks_of_one(data: st.DataObject) -> None:
    """(1 − w) / T: it pushes up where the weight is above one, and down by 1 / T where the target does not count."""
    prediction, target = data.draw(tensors((5,))), data.draw(tensors((5,)))
    temperature = data.draw(temperatures)
    (slope,) = gradients(lambda p: sparse_value_loss(p, target, temperature=temperature, reduction="sum"), prediction)
    close(slope, (1 - sparse_weights(target - prediction, temperature=temperature)) / temperature)


@given(data=st.data())
def test_the_sparse_value_loss_near_its_optimum_is_a_square(data: st.DataObject) -> None:
    """Where all targets count it is the squared loss over 4 T^2, plus what no prediction changes."""
    prediction, temperature = data.draw(tensors((5,))), data.draw(reals(1.0, 5.0))
    target = prediction + data.draw(tensors((5,), -2.0, 10.0))
    loss = sparse_value_loss(prediction, target, temperature=temperature, reduction="none")
    square = squared_loss(prediction, target, reduction="none") / (4 * temperature**2)
    close(loss, square + 1 + target / temperature)


def test_a_hopeless_target_costs_nothing_but_the_price() -> None:
    """−∞ included: no NaN, and the value falls."""
    target = torch.tensor([-3.0, -math.inf], dtype=torch.float64)
    zero = torch.full_like(target, 0.5)
    close(sparse_value_loss(zero, target, reduction="none"), zero)
    (slope,) = gradients(lambda p: sparse_value_loss(p, target, reduction="sum"), zero)
    close(slope, torch.ones_like(slope))
    assert bool((sparse_weights(target - zero) == 0).all())


# Binary: a value between 0 and 1.


@given(data=st.data())
def test_the_sigmoid_comes_to_rest_at_the_expectile(data: st.DataObject) -> None:
    """Over constants: SciPy's expectile of the targets, the minimizer of `expectile_loss` too."""
    sample, level = data.draw(distinct((data.draw(st.integers(2, 10)),), 0.01, 0.99)), data.draw(levels)
    best = torch.tensor(stats.expectile(sample.numpy(), alpha=level), dtype=torch.float64)
    close(slope_at(binary_expectile_loss, best.logit(), sample, expectile=level), 0.0, 1e-8)
    close(slope_at(expectile_loss, best, sample, expectile=level), 0.0, 1e-8)
    for step in (-0.1, 0.1):
        assert step * slope_at(binary_expectile_loss, best.logit() + step, sample, expectile=level) > 0


@given(data=st.data())
def test_its_gradient_is_half_that_of_the_expectile_loss_by_the_value(data: st.DataObject) -> None:
    """|e − 1[y < p]| (p − y): no sigmoid's slope that would vanish where the value is far off."""
    logits, target, level = data.draw(tensors((5,))), data.draw(tensors((5,), 0.0, 1.0)), data.draw(levels)
    (slope,) = gradients(lambda x: binary_expectile_loss(x, target, expectile=level, reduction="sum"), logits)
    (other,) = gradients(lambda p: expectile_loss(p, target, expectile=level, reduction="sum"), logits.sigmoid())
    close(slope, other / 2)


@given(data=st.data())
def test_one_half_is_half_the_cross_entropy(data: st.DataObject) -> None:
    """PyTorch's, and the two sides together are the whole of it."""
    logits, target, level = data.draw(tensors((5,))), data.draw(tensors((5,), 0.0, 1.0)), data.draw(levels)
    whole = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    close(binary_expectile_loss(logits, target, expectile=0.5), whole / 2)
    both = [binary_expectile_loss(logits, target, expectile=x) for x in (level, 1 - level)]
    close(both[0] + both[1], whole)


@given(data=st.data())
def test_success_and_failure_are_mirror_images(data: st.DataObject) -> None:
    """The other side of the coin at the mirrored level."""
    logits, target = data.draw(residuals((5,))), data.draw(tensors((5,), 0.0, 1.0))
    level = data.draw(levels)
    mirrored = binary_expectile_loss(-logits, 1 - target, expectile=1 - level)
    close(binary_expectile_loss(logits, target, expectile=level), mirrored, 1e-7)


def test_a_certain_value_is_judged() -> None:
    """Infinite logits cost nothing where they are right and everything where they are wrong."""
    logits = torch.tensor([math.inf, -math.inf, math.inf, 1e4], dtype=torch.float64)
    target = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    loss = binary_expectile_loss(logits, target, expectile=0.8, reduction="none")
    assert loss.tolist() == [0.0, 0.0, math.inf, 0.0]
    (slope,) = gradients(lambda x: binary_expectile_loss(x, target, expectile=0.8, reduction="sum"), logits)
    close(slope, torch.tensor([0.0, 0.0, 0.2, 0.0], dtype=torch.float64))


def test_a_level_for_each_output() -> None:
    """Several expectiles of one value: the loss of each with its own level."""
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    logits, target = torch.randn(2, 5, 3, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64)
    got = binary_expectile_loss(logits, target, expectile=levels, reduction="none")
    for i in range(3):
        one = binary_expectile_loss(logits[..., i], target[..., i], expectile=levels[i].item(), reduction="none")
        close(got[..., i], one)
    close(binary_expectile_loss(logits, target, expectile=levels.expand(2, 5, 3), reduction="none"), got)


def test_a_target_at_the_value_weighs_as_one_above() -> None:
    """There the loss is the target's entropy, times the level."""
    zero = torch.zeros(1, dtype=torch.float64)
    close(binary_expectile_loss(zero, zero + 0.5, expectile=0.8), 0.8 * math.log(2))
