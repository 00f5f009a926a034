"""The laws of diagnostics: cases made by hand, and what must not move them."""

from __future__ import annotations

import math

import torch
from comparison import close, not_above
from hypothesis import given
from hypothesis import strategies as st
from strategies import batches, masks, probabilities, reals, tensors

from offline_losses import (
    awr_weights,
    clip_fraction,
    overestimation_gap,
    q_gap,
    support_coverage,
    support_mask,
    td_error_scale,
)


@given(data=st.data(), shift=reals(-5.0, 5.0))
def test_a_gap_is_the_difference_of_means_and_its_deviation(data: st.DataObject, shift: float) -> None:
    """Torch's own, over what exists; a constant bias moves the mean alone, and turning round turns the sign."""
    shape = data.draw(batches())
    first, second, mask = data.draw(tensors(shape)), data.draw(tensors(shape)), data.draw(masks(shape))
    for function in (overestimation_gap, q_gap):
        gap = function(first, second, mask=mask)
        kept = (first - second)[mask]
        close(gap.mean, kept.mean() if len(kept) else 0.0)
        close(gap.std, kept.std(correction=0) if len(kept) else 0.0, 1e-7)
        moved = function(first + shift, second, mask=mask)
        close(moved.mean, gap.mean + (shift if len(kept) else 0))
        close(moved.std, gap.std, 1e-6)
        close(function(second, first, mask=mask).mean, -gap.mean)


def test_a_critic_that_promises_too_much_has_a_positive_gap() -> None:
    """Q of 3 for a return of 1, and for the policy's action 3 where the data's has 1."""
    high, low = torch.full((4,), 3.0), torch.ones(4)
    assert overestimation_gap(high, low) == q_gap(high, low) == (2.0, 0.0)


def test_the_share_that_a_bound_holds_back() -> None:
    """Those at it count, on either side; without bounds none does, unless it is infinite."""
    x = torch.tensor([-1.0, 0.0, 0.5, 2.0, 2.0])
    assert clip_fraction(x) == 0
    close(clip_fraction(x, high=2.0), 0.4, 1e-6)
    close(clip_fraction(x, low=0.0), 0.4, 1e-6)
    close(clip_fraction(x, low=0.0, high=2.0), 0.8, 1e-6)
    close(clip_fraction(x, low=0.0, high=2.0, mask=torch.tensor([True, False, True, False, True])), 2 / 3, 1e-6)
    weights = awr_weights(torch.tensor([0.0, 1.0, 9.0, 10.0]), temperature=1.0, max_weight=100.0)
    assert clip_fraction(weights, high=100.0) == 0.5


@given(data=st.data(), factor=reals(0.1, 5.0), shift=reals(-5.0, 5.0))
def test_the_scale_of_errors_has_no_unit(data: st.DataObject, factor: float, shift: float) -> None:
    """Neither a factor nor a constant on both changes it; the mean target has 1, and the target itself 0."""
    shape = data.draw(batches(1, 1, 2))
    target, prediction = data.draw(tensors(shape)), data.draw(tensors(shape))
    spread = target.std(correction=0)
    if spread < 0.1:
        return
    scale = td_error_scale(prediction, target)
    close(scale, (target - prediction).square().mean().sqrt() / spread)
    close(td_error_scale(factor * prediction + shift, factor * target + shift), scale)
    close(td_error_scale(target.mean().expand(shape), target), 1.0)
    close(td_error_scale(target, target), 0.0)
    not_above(torch.ones_like(scale), td_error_scale(torch.full(shape, shift).double(), target))


def test_targets_that_are_all_the_same() -> None:
    """No spread: infinity for a wrong prediction, zero for a right one, and no NaN in a gradient."""
    target = torch.ones(3)
    wrong = (target + 1).requires_grad_()
    scale = td_error_scale(wrong, target)
    assert scale == math.inf
    assert torch.autograd.grad(scale, wrong)[0].isfinite().all()
    right = target.clone().requires_grad_()
    scale = td_error_scale(right, target)
    assert scale == 0
    assert torch.autograd.grad(scale, right)[0].isfinite().all()


@given(data=st.data())
def test_coverage_is_a_probability(data: st.DataObject) -> None:
    """One with all actions known, zero with none, never less for a larger support, and added up over disjoint ones."""
    shape = (*data.draw(batches()), data.draw(st.integers(1, 4)))
    policy, support, more = data.draw(probabilities(shape)), data.draw(masks(shape)), data.draw(masks(shape))
    close(support_coverage(policy, torch.ones_like(support)), 1.0)
    close(support_coverage(policy, torch.zeros_like(support)), 0.0)
    not_above(support_coverage(policy, support), support_coverage(policy, support | more))
    close(support_coverage(policy, support) + support_coverage(policy, ~support), 1.0)


def test_coverage_of_a_behavior_model() -> None:
    """An action that the data never take, which has a fifth of the policy's probability in one of two states."""
    behavior = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]])
    policy = torch.tensor([[0.4, 0.4, 0.2], [0.5, 0.5, 0.0]])
    support = support_mask(behavior.log())
    close(support_coverage(policy, support), 0.9, 1e-6)
    close(support_coverage(policy, support, mask=torch.tensor([True, False])), 0.8, 1e-6)
