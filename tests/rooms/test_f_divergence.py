"""The laws of a convex function and its conjugate: each is the most that the other allows, by the other's slope."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from strategies import batches, probabilities, reals, temperatures, tensors

from offline_losses import dice_weights, f_conjugate, f_divergence_penalty
from offline_losses.f_divergence import Divergence

DIVERGENCES: tuple[Divergence, ...] = ("kl", "chi_square", "soft_chi_square")
INF = float("inf")
each_divergence = pytest.mark.parametrize("divergence", DIVERGENCES)


def f(ratio: torch.Tensor, divergence: Divergence) -> torch.Tensor:
    return f_divergence_penalty(ratio, divergence=divergence, reduction="none")


@each_divergence
def test_the_conjugate_is_the_maximum_over_a_grid_of_ratios(divergence: Divergence) -> None:
    """Of ratio times reward less the divergence, over ratios of at least zero."""
    ratio = torch.linspace(0, 12, 24_001).double().unsqueeze(-1)
    y = torch.linspace(-4, 3, 29).double()
    best = (ratio * y - f(ratio, divergence)).amax(0)
    close(f_conjugate(y, divergence=divergence), best, 1e-5)
    not_above(best, f_conjugate(y, divergence=divergence))


@each_divergence
def test_the_divergence_is_the_maximum_over_a_grid_of_rewards(divergence: Divergence) -> None:
    """The conjugate of the conjugate is the function itself, since it is convex."""
    y = torch.linspace(-12, 8, 20_001).double().unsqueeze(-1)
    ratio = torch.linspace(0.1, 5, 29).double()
    close(f(ratio, divergence), (ratio * y - f_conjugate(y, divergence=divergence)).amax(0), 1e-5)


@each_divergence
@given(data=st.data())
def test_the_weights_attain_the_maximum(divergence: Divergence, data: st.DataObject) -> None:
    """They are the slope of the conjugate, and there the reward is the slope of the divergence."""
    shape = data.draw(batches())
    y = data.draw(tensors(shape, -6.0, 6.0))
    weight = dice_weights(y, divergence=divergence)
    close(f_conjugate(y, divergence=divergence), weight * y - f(weight, divergence))
    (slope,) = gradients(lambda y: f_conjugate(y, divergence=divergence), y)
    close(slope, weight)
    (back,) = gradients(lambda w: f(w, divergence), weight)
    close(torch.where(weight > 0, back, y), y)


@each_divergence
@given(data=st.data(), temperature=temperatures)
def test_weights_are_ratios(divergence: Divergence, data: st.DataObject, temperature: float) -> None:
    """Never negative, rising with the advantage, which the temperature divides; nothing flows through them."""
    shape = data.draw(batches())
    a, b = (data.draw(tensors(shape)).requires_grad_() for _ in range(2))
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    knobs = {"divergence": divergence, "temperature": temperature}
    lower, higher = dice_weights(low, **knobs), dice_weights(high, **knobs)
    not_above(torch.zeros_like(lower), lower)
    not_above(lower, higher)
    assert not higher.requires_grad
    close(higher, dice_weights(high / temperature, divergence=divergence))


@each_divergence
@given(data=st.data())
def test_no_divergence_is_negative(divergence: Divergence, data: st.DataObject) -> None:
    """Between two distributions: zero if they are the same, and least there."""
    shape = (data.draw(st.integers(1, 5)),)
    policy, behavior = data.draw(probabilities(shape)), data.draw(probabilities(shape, zeros=False))
    d = (behavior * f(policy / behavior, divergence)).sum()
    not_above(torch.zeros_like(d), d)
    close(f(torch.ones(3).double(), divergence), 0.0)
    if divergence == "kl":
        close(d, torch.special.xlogy(policy, policy / behavior).sum())
    if divergence == "chi_square":
        close(d, ((policy - behavior) ** 2 / behavior).sum() / 2)


def test_the_soft_chi_square_is_the_one_above_and_the_other_below() -> None:
    """A square where the policy goes oftener than the data, entropy where it goes less often; smooth in between."""
    ratio = torch.tensor([0.0, 0.5, 1.0, 2.0, 5.0]).double()
    soft = f(ratio, "soft_chi_square")
    close(soft[2:], f(ratio, "chi_square")[2:])
    close(soft[:2], (f(ratio, "kl") - ratio + 1)[:2])
    near = 1 + torch.tensor([-1e-5, 1e-5]).double()
    close(f(near, "soft_chi_square") / (near - 1) ** 2, 0.5, 1e-4)
    assert f(near.float(), "soft_chi_square").min() > 0


@each_divergence
def test_at_the_ends(divergence: Divergence) -> None:
    """No ratio is infinitely dear only below zero; no reward, however low, costs more than to take nothing."""
    low, high = torch.tensor([-INF, -1e30]), torch.tensor([1e20, INF])
    f0 = {"kl": 0.0, "chi_square": 0.5, "soft_chi_square": 1.0}[divergence]
    close(f_conjugate(low, divergence=divergence), -f0)
    close(gradients(lambda y: f_conjugate(y, divergence=divergence), low)[0], 0.0)
    assert (f_conjugate(high, divergence=divergence) > 1e20).all()
    ratio = torch.tensor([-1.0, 0.0])
    assert f(ratio, divergence).tolist() == [INF, f0]
    assert (gradients(lambda w: f(w, divergence), ratio)[0] <= 0).all()  # a ratio of zero may only grow
    assert f(torch.tensor([INF]), divergence) == INF
    assert f(torch.tensor([math.nan]), divergence).isnan()
    assert dice_weights(torch.tensor([-INF]), divergence=divergence) == 0


@given(bound=reals(0.5, 10.0), above=reals(0.0, 5.0))
def test_a_bounded_exponent_is_a_bounded_ratio(bound: float, above: float) -> None:
    """Beyond it the conjugate is its tangent, whose slope is the weight."""
    y = torch.tensor([1 + bound + above], dtype=torch.float64)
    edge = y - above
    knobs = {"divergence": "kl", "max_exponent": bound}
    close(dice_weights(y, **knobs), math.exp(bound))
    close(f_conjugate(y, **knobs), f_conjugate(edge, **knobs) + above * math.exp(bound))
    wide = {"divergence": "kl", "max_exponent": 40.0}
    assert f_conjugate(edge + 30, **wide) == dice_weights(edge + 30, **wide) == (edge + 29).exp()
    far = torch.tensor([1e20])
    assert f_conjugate(far, divergence="kl").isfinite()
    assert dice_weights(far, divergence="kl").isfinite()


def test_little_rewards_have_digits() -> None:
    """Near zero the conjugate of the soft chi-square is the reward itself, from both sides."""
    y = torch.tensor([-1e-7, -1e-4, 1e-7])
    close(f_conjugate(y) / y, 1.0, 1e-4)
