"""The laws of the residual penalties: what they minimize, how they scale, where they agree."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES, reduced
from scipy import stats
from strategies import batches, distinct, levels, masks, reals, residuals, tensors
from torch import Tensor

from offline_losses import expectile_loss, huber_loss, quantile_loss, squared_loss

Loss = Callable[..., Tensor]

LOSSES = [squared_loss, huber_loss, expectile_loss, quantile_loss]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)

KNOBS: dict[str, str] = {
    "huber_loss": "delta",
    "expectile_loss": "expectile",
    "quantile_loss": "quantile",
}


def with_knob(loss: Loss, value: float) -> dict[str, float]:
    """The loss's one knob at `value`, or nothing where it has none."""
    name = KNOBS.get(loss.__name__)
    return {} if name is None else {name: value}


@each_loss
@given(data=st.data())
def test_follows_the_paper(loss: Loss, data: st.DataObject) -> None:
    """Each element is the paper's formula, and the mean is the plain mean."""
    shape = data.draw(batches())
    prediction, target = data.draw(tensors(shape)), data.draw(tensors(shape))
    knob = with_knob(loss, data.draw(levels))
    expected = ORACLES[loss.__name__](prediction.numpy(), target.numpy(), **knob)
    close(loss(prediction, target, reduction="none", **knob), expected)
    close(loss(prediction, target, **knob), expected.mean())
    close(loss(prediction, target, reduction="sum", **knob), expected.sum())


@each_loss
@given(data=st.data())
def test_only_the_residual_matters(loss: Loss, data: st.DataObject) -> None:
    """Moving prediction and target by the same amount changes nothing."""
    shape = data.draw(batches())
    prediction, target = data.draw(tensors(shape)), data.draw(tensors(shape))
    shift = data.draw(reals())
    knob = with_knob(loss, data.draw(levels))
    close(loss(prediction + shift, target + shift, **knob), loss(prediction, target, **knob), 1e-8)


@each_loss
@given(data=st.data())
def test_zero_exactly_at_the_target(loss: Loss, data: st.DataObject) -> None:
    """No residual costs nothing and moves nothing; any other residual costs something."""
    target = data.draw(tensors(data.draw(batches())))
    away = target + data.draw(residuals(tuple(target.shape)))
    knob = with_knob(loss, data.draw(levels))
    assert bool((loss(target, target, reduction="none", **knob) == 0).all())
    assert bool((loss(away, target, reduction="none", **knob) > 0).all())


@each_loss
@given(data=st.data())
def test_convex_in_the_prediction(loss: Loss, data: st.DataObject) -> None:
    """On a chord the loss is at most the chord."""
    shape = data.draw(batches())
    left, right, target = (data.draw(tensors(shape)) for _ in range(3))
    part = data.draw(reals(0.0, 1.0))
    knob = with_knob(loss, data.draw(levels))
    between = loss(part * left + (1 - part) * right, target, reduction="none", **knob)
    chord = part * loss(left, target, reduction="none", **knob)
    chord = chord + (1 - part) * loss(right, target, reduction="none", **knob)
    not_above(between, chord)


@each_loss
@given(data=st.data())
def test_the_gradient_points_to_the_target(loss: Loss, data: st.DataObject) -> None:
    """A step against the gradient moves each prediction toward its target."""
    target = data.draw(tensors(data.draw(batches())))
    residual = data.draw(residuals(tuple(target.shape)))
    knob = with_knob(loss, data.draw(levels))
    (slope,) = gradients(lambda p: loss(p, target, **knob), target - residual)
    assert bool((slope * residual < 0).all())


@each_loss
def test_target_and_weight_are_constants(loss: Loss) -> None:
    """The loss is a function of the prediction alone: target and weight receive no gradient."""
    prediction, target, weight = (torch.rand(5, dtype=torch.float64) for _ in range(3))
    for x in (prediction, target, weight):
        x.requires_grad_()
    loss(prediction, target, weight=weight).backward()
    assert prediction.grad is not None
    assert bool((prediction.grad != 0).any())
    assert target.grad is None
    assert weight.grad is None


@each_loss
def test_a_column_is_not_a_vector(loss: Loss) -> None:
    """[B] against [B, 1] would silently become [B, B]: it is an error that names both shapes."""
    vector, column = torch.zeros(5), torch.zeros(5, 1)
    for prediction, target in ((vector, column), (column, vector)):
        with pytest.raises(ValueError, match=loss.__name__) as error:
            loss(prediction, target)
        message = str(error.value)
        assert "[5]" in message.replace("(5,)", "[5]")
        assert "[5, 1]" in message.replace("(5, 1)", "[5, 1]")
    for name in ("weight", "mask"):
        tail = {name: torch.ones(5, 1, dtype=torch.bool if name == "mask" else torch.float32)}
        with pytest.raises(ValueError, match=name):
            loss(vector, vector, **tail)


@each_loss
@given(data=st.data())
def test_critics_are_a_leading_axis(loss: Loss, data: st.DataObject) -> None:
    """E critics against one target: the loss is the mean of E separate losses."""
    shape = data.draw(batches())
    critics = data.draw(st.integers(1, 3))
    q, target = data.draw(tensors((critics, *shape))), data.draw(tensors(shape))
    mask, weight = data.draw(masks(shape)), data.draw(tensors(shape, 0.0, 3.0))
    tail = {"mask": mask, "weight": weight}
    one_by_one = torch.stack([loss(q[e], target, reduction="sum", **tail) for e in range(critics)])
    close(loss(q, target, reduction="sum", **tail), one_by_one.sum())
    close(loss(q, target, **tail), one_by_one.sum() / max(1, critics * int(mask.sum())))
    assert loss(q, target, reduction="none", **tail).shape == q.shape
    # A mask and a weight may also be given critic by critic.
    mask, weight = data.draw(masks(q.shape)), data.draw(tensors(q.shape, 0.0, 3.0))
    apart = [loss(q[e], target, mask=mask[e], weight=weight[e], reduction="sum") for e in range(critics)]
    close(loss(q, target, mask=mask, weight=weight), sum(apart) / max(1, int(mask.sum())))


@each_loss
@given(data=st.data())
def test_masked_elements_do_not_exist(loss: Loss, data: st.DataObject) -> None:
    """Masking is deleting, whatever the hidden values are, NaN included, forward and backward."""
    count = data.draw(st.integers(1, 6))
    prediction, target = data.draw(tensors((count,))), data.draw(tensors((count,)))
    mask, weight = data.draw(masks((count,))), data.draw(tensors((count,), 0.0, 3.0))
    hidden = torch.tensor(float("nan"), dtype=torch.float64)
    shown = torch.where(mask, prediction, hidden)
    aims = torch.where(mask, target, hidden)
    scales = torch.where(mask, weight, hidden)
    kept = reduced(
        ORACLES[loss.__name__](prediction[mask].numpy(), target[mask].numpy()),
        weight=weight[mask].numpy(),
    )
    close(loss(shown, aims, mask=mask, weight=scales), kept)
    (slope,) = gradients(lambda p: loss(p, aims, mask=mask, weight=scales), shown)
    (plain,) = gradients(lambda p: loss(p, target[mask], weight=weight[mask]), prediction[mask])
    close(slope[mask], plain)
    assert bool((slope[~mask] == 0).all())


@pytest.mark.parametrize("loss", [huber_loss, expectile_loss, quantile_loss], ids=lambda loss: loss.__name__)
def test_a_learned_knob_does_not_see_masked_elements(loss: Loss) -> None:
    """The knob's gradient is that of the existing elements, though the others and their weights are NaN."""
    x = torch.tensor([1.0, float("nan"), 3.0], dtype=torch.float64)
    aim, weight = torch.zeros_like(x), x.clone()
    mask = torch.tensor([True, False, True])
    level = torch.tensor(0.7, dtype=torch.float64)
    name = KNOBS[loss.__name__]
    (slope,) = gradients(lambda k: loss(x, aim, mask=mask, weight=weight, **{name: k}), level)
    (plain,) = gradients(lambda k: loss(x[mask], aim[mask], weight=weight[mask], **{name: k}), level)
    assert plain != 0
    close(slope, plain)


@each_loss
@given(data=st.data())
def test_micro_batches_add_up(loss: Loss, data: st.DataObject) -> None:
    """Sums over micro-batches, divided once by the global count, are the full-batch mean."""
    count = data.draw(st.integers(2, 8))
    prediction, target = data.draw(tensors((count,))), data.draw(tensors((count,)))
    mask, weight = data.draw(masks((count,))), data.draw(tensors((count,), 0.0, 3.0))
    at = data.draw(st.integers(1, count - 1))
    parts = [
        loss(prediction[s], target[s], mask=mask[s], weight=weight[s], reduction="sum")
        for s in (slice(None, at), slice(at, None))
    ]
    whole = loss(prediction, target, mask=mask, weight=weight)
    close(whole, (parts[0] + parts[1]) / max(1, int(mask.sum())))


@each_loss
@given(data=st.data())
def test_a_weight_multiplies_and_never_divides(loss: Loss, data: st.DataObject) -> None:
    """Twice the weight is twice the loss; a zero weight still counts in the denominator."""
    shape = data.draw(batches())
    prediction, target = data.draw(tensors(shape)), data.draw(tensors(shape))
    weight = data.draw(tensors(shape, 0.0, 3.0))
    close(loss(prediction, target, weight=2 * weight), 2 * loss(prediction, target, weight=weight))
    close(loss(prediction, target, weight=torch.ones_like(weight)), loss(prediction, target))


@each_loss
@given(data=st.data())
def test_order_and_copies_of_the_batch(loss: Loss, data: st.DataObject) -> None:
    """A permuted or repeated batch has the same mean loss."""
    count = data.draw(st.integers(1, 6))
    prediction, target = data.draw(tensors((count,))), data.draw(tensors((count,)))
    order = torch.tensor(data.draw(st.permutations(range(count))))
    once = loss(prediction, target)
    close(loss(prediction[order], target[order]), once)
    close(loss(prediction.repeat(3), target.repeat(3)), once)


def test_the_defaults() -> None:
    """Expectile 0.7, the median, delta 1: a missed unit from below, and a large residual."""
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    close(expectile_loss(zero, one), 0.7)
    close(quantile_loss(zero, one), 0.5)
    close(huber_loss(zero, 3 * one), 2.5)
    close(squared_loss(zero, 3 * one), 9.0)


# Expectiles and quantiles.


@given(data=st.data())
def test_the_expectile_is_the_minimizer(data: st.DataObject) -> None:
    """Over constants, the loss is stationary and least at the sample's expectile (SciPy's)."""
    sample = data.draw(distinct((data.draw(st.integers(2, 12)),)))
    level = data.draw(levels)
    best = torch.tensor(stats.expectile(sample.numpy(), alpha=level), dtype=torch.float64)

    def cost(constant: Tensor) -> Tensor:
        return expectile_loss(constant.expand_as(sample), sample, expectile=level)

    (slope,) = gradients(cost, best)
    close(slope, 0.0, 1e-8)
    for step in (-0.1, 0.1):
        assert cost(best + step) > cost(best)


@given(data=st.data())
def test_the_quantile_is_the_minimizer(data: st.DataObject) -> None:
    """Over constants, no point costs less than the sample's quantile."""
    sample = data.draw(distinct((data.draw(st.integers(1, 12)),)))
    level = data.draw(levels)
    best = torch.tensor(np.quantile(sample.numpy(), level, method="inverted_cdf"))

    def cost(constant: Tensor) -> Tensor:
        return quantile_loss(constant.expand_as(sample), sample, quantile=level)

    least = cost(best)
    for other in [*sample, *data.draw(tensors((5,), -11.0, 11.0))]:
        not_above(least, cost(other))


@pytest.mark.parametrize("loss", [expectile_loss, quantile_loss], ids=["expectile", "quantile"])
@given(data=st.data())
def test_a_high_level_is_optimistic(loss: Loss, data: st.DataObject) -> None:
    """A target missed from below weighs `level`, one missed from above 1 - level: never mirrored."""
    level = data.draw(levels)
    size = data.draw(residuals((4,))).abs()
    zero = torch.zeros(4, dtype=torch.float64)
    knob = with_knob(loss, level)
    below = loss(zero, size, reduction="none", **knob)
    above = loss(zero, -size, reduction="none", **knob)
    close(below * (1 - level), above * level)


@given(data=st.data())
def test_the_minimizer_rises_with_the_expectile(data: st.DataObject) -> None:
    """A higher expectile makes the best constant larger: the slope at the old best is negative."""
    sample = data.draw(distinct((data.draw(st.integers(2, 10)),)))
    low = data.draw(reals(0.02, 0.9))
    high = low + data.draw(reals(0.02, 0.08))
    best = torch.tensor(stats.expectile(sample.numpy(), alpha=low), dtype=torch.float64)
    (slope,) = gradients(lambda c: expectile_loss(c.expand_as(sample), sample, expectile=high), best)
    assert slope < 0


@pytest.mark.parametrize("loss", [expectile_loss, quantile_loss], ids=["expectile", "quantile"])
@given(data=st.data())
def test_mirror(loss: Loss, data: st.DataObject) -> None:
    """L_e(u) = L_{1-e}(-u): looking at the mirror image swaps optimism for pessimism."""
    shape = data.draw(batches())
    prediction, target = data.draw(tensors(shape)), data.draw(tensors(shape))
    level = data.draw(levels)
    close(
        loss(prediction, target, **with_knob(loss, level)),
        loss(-prediction, -target, **with_knob(loss, 1 - level)),
    )


@given(data=st.data())
def test_one_half_is_the_symmetric_loss(data: st.DataObject) -> None:
    """At one half: half the squared loss, half the absolute error; with the mirror, the whole."""
    shape = data.draw(batches())
    prediction, target = data.draw(tensors(shape)), data.draw(tensors(shape))
    level = data.draw(levels)
    squared = squared_loss(prediction, target)
    close(expectile_loss(prediction, target, expectile=0.5), squared / 2)
    close(quantile_loss(prediction, target, quantile=0.5), (target - prediction).abs().mean() / 2)
    both = expectile_loss(prediction, target, expectile=level)
    close(both + expectile_loss(prediction, target, expectile=1 - level), squared)


@given(data=st.data())
def test_the_quantile_loss_is_linear_in_its_level(data: st.DataObject) -> None:
    """d loss / d quantile is the residual u itself; d loss / d expectile is u |u|."""
    shape = data.draw(batches())
    prediction, u = data.draw(tensors(shape)), data.draw(residuals(shape))
    level = torch.tensor(data.draw(levels), dtype=torch.float64)
    (slope,) = gradients(lambda e: quantile_loss(prediction, prediction + u, quantile=e), level)
    close(slope, u.mean(), 1e-8)
    (slope,) = gradients(lambda e: expectile_loss(prediction, prediction + u, expectile=e), level)
    close(slope, (u * u.abs()).mean(), 1e-8)


@given(data=st.data())
def test_degree(data: st.DataObject) -> None:
    """c times the residual: c times the quantile loss, c^2 times squared, expectile and Huber."""
    shape = data.draw(batches())
    prediction, target = data.draw(tensors(shape)), data.draw(tensors(shape))
    c, level = data.draw(reals(0.1, 5.0)), data.draw(levels)
    big, aim = c * prediction, c * target
    close(squared_loss(big, aim), c**2 * squared_loss(prediction, target))
    for loss, degree in ((expectile_loss, 2), (quantile_loss, 1)):
        knob = with_knob(loss, level)
        close(loss(big, aim, **knob), c**degree * loss(prediction, target, **knob))
    scaled = huber_loss(big, aim, delta=c * level)
    close(scaled, c**2 * huber_loss(prediction, target, delta=level))


# Huber.


@given(data=st.data())
def test_huber_lies_between_its_two_regimes(data: st.DataObject) -> None:
    """Half the square inside, an absolute line outside, never above either."""
    shape = data.draw(batches())
    prediction, target = data.draw(tensors(shape)), data.draw(tensors(shape))
    delta = data.draw(reals(0.1, 5.0))
    size = (target - prediction).abs()
    loss = huber_loss(prediction, target, delta=delta, reduction="none")
    half_square, line = size**2 / 2, delta * size - delta**2 / 2
    not_above(loss, half_square)
    not_above(line, loss)
    not_above(loss, delta * size)
    close(loss[size <= delta], half_square[size <= delta])
    close(loss[size > delta], line[size > delta])


@given(data=st.data())
def test_the_huber_slope_is_the_clipped_residual(data: st.DataObject) -> None:
    """The gradient never exceeds delta: it is the residual, clipped."""
    shape = data.draw(batches())
    prediction, target = data.draw(tensors(shape)), data.draw(tensors(shape))
    delta = data.draw(reals(0.1, 5.0))
    (slope,) = gradients(lambda p: huber_loss(p, target, delta=delta, reduction="sum"), prediction)
    close(slope, (prediction - target).clamp(-delta, delta))


@given(data=st.data())
def test_huber_is_the_moreau_envelope_of_the_absolute_error(data: st.DataObject) -> None:
    """huber(u) = min over v of delta |v| + (u - v)^2 / 2, reached by soft thresholding."""
    u = data.draw(tensors(data.draw(batches())))
    delta = data.draw(reals(0.1, 5.0))
    loss = huber_loss(torch.zeros_like(u), u, delta=delta, reduction="none")

    def cost(v: Tensor) -> Tensor:
        return delta * v.abs() + (u - v) ** 2 / 2

    close(loss, cost(u.sign() * (u.abs() - delta).clamp(min=0.0)))
    not_above(loss, cost(data.draw(tensors(tuple(u.shape)))))


@given(data=st.data())
def test_the_limits_of_huber(data: st.DataObject) -> None:
    """A large delta gives half the squared loss; a small one, per delta, the absolute error."""
    shape = data.draw(batches())
    prediction, target = data.draw(tensors(shape)), data.draw(tensors(shape))
    wide = huber_loss(prediction, target, delta=1e6)
    close(wide, squared_loss(prediction, target) / 2)
    narrow = huber_loss(prediction, target, delta=1e-7) / 1e-7
    close(narrow, (target - prediction).abs().mean(), 1e-6)


@given(data=st.data())
def test_huber_and_quantile_loss_meet(data: st.DataObject) -> None:
    """Per delta, a narrow Huber loss is twice the median's quantile loss."""
    shape = data.draw(batches())
    prediction, target = data.draw(tensors(shape)), data.draw(tensors(shape))
    narrow = huber_loss(prediction, target, delta=1e-7) / 1e-7
    close(narrow, 2 * quantile_loss(prediction, target, quantile=0.5), 1e-6)


@pytest.mark.parametrize(("loss", "knob"), [(quantile_loss, "quantile"), (expectile_loss, "expectile")])
def test_a_level_for_each_output(loss: Callable[..., Tensor], knob: str) -> None:
    """N quantiles of one distribution: the loss of each with its own level."""
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    prediction, target = torch.randn(2, 5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    got = loss(prediction, target, **{knob: levels}, reduction="none")
    for i in range(3):
        close(got[..., i], loss(prediction[..., i], target[..., i], **{knob: levels[i].item()}, reduction="none"))
    close(loss(prediction, target, **{knob: levels.expand(2, 5, 3)}, reduction="none"), got)
    assert torch.autograd.gradcheck(lambda level: loss(prediction, target, **{knob: level}), levels)
    with pytest.raises(ValueError, match=rf"{knob}: expected shape \[\] or shape \[3\] or .+, got shape \[5\]"):
        loss(prediction, target, **{knob: torch.full((5,), 0.5)})


@pytest.mark.parametrize("loss", [squared_loss, huber_loss, expectile_loss, quantile_loss])
def test_one_number_is_not_the_target_of_many(loss: Callable[..., Tensor]) -> None:
    """A mean that was taken too early is refused; expanded by hand it is meant."""
    prediction, target = torch.randn(4), torch.tensor(0.5)
    with pytest.raises(ValueError, match=r"target: expected shape \[4\].+target\.expand_as\(prediction\) does"):
        loss(prediction, target)
    assert loss(prediction, target.expand_as(prediction)).isfinite()
    assert loss(prediction[0], target).isfinite()


@pytest.mark.parametrize(
    ("prediction", "target", "mend"),
    [
        ((2, 4, 1), (4,), r"Here prediction\.squeeze\(-1\) does\."),
        ((2, 4), (4, 1), r"Here target\.squeeze\(-1\) does\."),
        ((4,), (4, 1), r"Here target\.squeeze\(-1\) does\."),
    ],
)
def test_a_trailing_axis_is_told_where_it_is(prediction: tuple[int, ...], target: tuple[int, ...], mend: str) -> None:
    """Of critics too."""
    with pytest.raises(ValueError, match=mend):
        squared_loss(torch.zeros(prediction), torch.zeros(target))


@pytest.mark.parametrize("given", [(2, 5), (2, 5, 1), (2, 1, 1)], ids=str)
def test_a_mask_of_steps_is_expanded_by_the_call_that_is_named(given: tuple[int, ...]) -> None:
    """Action chunks [B, T, A] with a mask for each step: the call of the message gives the mean over what exists."""
    prediction, target = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    mask = torch.rand(given) < 0.7
    with pytest.raises(ValueError, match=r"mask\.\S*expand\(2, 5, 3\) does") as said:
        squared_loss(prediction, target, mask=mask)
    found = re.search(r"(mask\.\S*expand\(2, 5, 3\))", str(said.value))
    assert found
    expanded = eval(found[1], {"mask": mask})
    wanted = (prediction - target).square()[expanded].sum() / max(1, int(expanded.sum()))
    close(squared_loss(prediction, target, mask=expanded), wanted, 1e-6)
