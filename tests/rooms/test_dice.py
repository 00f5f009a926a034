"""The laws of DICE without a policy: a minimum is what the best one earns after the price, slopes are its visits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from comparison import close, gradients, not_above
from evaluation import PROCESS
from hypothesis import given
from hypothesis import strategies as st
from strategies import batches, masks, reals, temperatures, tensors
from torch import Tensor
from visiting import DATA, DISCOUNT, STAYS, Losses, errors, minimized, of_state_values, returns, visits

from offline_losses import (
    dice_weights,
    f_conjugate,
    f_divergence_penalty,
    mpo_weights,
    opti_dice_loss,
    smodice_loss,
)


@pytest.mark.parametrize("divergence", ["kl", "chi_square", "soft_chi_square"])
@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_opti_dice_finds_the_best_policy_at_the_price(divergence: Any, temperature: float) -> None:
    """Its weights are visits of one policy, which earns its minimum after the price; no other policy earns as much."""
    knobs = {"divergence": divergence, "temperature": temperature}
    loss = of_state_values(opti_dice_loss, **knobs)
    v = minimized(loss, 2)
    visited = DATA * dice_weights(errors(v), **knobs)
    policy = visited / visited.sum(-1, keepdim=True)
    close(visited, visits(policy), 1e-5)

    def earned(policy: Tensor) -> Tensor:
        ratio = visits(policy) / DATA
        price = f_divergence_penalty(ratio, divergence=divergence, weight=DATA, reduction="sum")
        return returns(policy) - temperature * price

    close(loss(v), earned(policy), 1e-5)
    for p in (0.0, 0.3, 0.7, 1.0):
        for q in (0.0, 0.3, 0.7, 1.0):
            not_above(earned(torch.tensor([[p, 1 - p], [q, 1 - q]]).double()), loss(v), 1e-6)


@given(data=st.data(), temperature=temperatures)
def test_opti_dice_is_its_parts(data: st.DataObject, temperature: float) -> None:
    """First states and the conjugate of the error; a gradient to every value, that of the error by the weights."""
    shape = data.draw(batches(1, 1))
    value, following, first, reward = (data.draw(tensors(shape, -3.0, 3.0)) for _ in range(4))
    end = data.draw(masks(shape))
    knobs = {"temperature": temperature, "divergence": data.draw(st.sampled_from(["chi_square", "soft_chi_square"]))}

    def loss(*x: Tensor) -> Tensor:
        return opti_dice_loss(*x, end, discount=0.9, reduction="none", **knobs)

    e = reward + 0.9 * torch.where(end, 0.0, following) - value
    worth = f_conjugate(e / temperature, divergence=knobs["divergence"])
    close(loss(value, following, first, reward), 0.1 * first + temperature * worth)
    weight = dice_weights(e, **knobs)
    slopes = gradients(loss, value, following, first, reward)
    for slope, wanted in zip(slopes, (-weight, 0.9 * weight * ~end, torch.full_like(e, 0.1), weight), strict=True):
        close(slope, wanted)


def test_smodice_normalizes_the_ratios_of_kl() -> None:
    """Its minimum is that of the relative entropy's form, and so are its ratios, whose mean is one."""
    temperature, n = 2.0, 64
    count = (DATA * 10).round().long().flatten()
    rows = torch.arange(4).repeat_interleave(count * n // 10 + 1)

    def sampled(loss: Losses, **more: Any) -> Callable[[Tensor], Tensor]:
        def mean(v: Tensor) -> Tensor:
            parts = (v.unsqueeze(-1).expand(2, 2), STAYS @ v, (PROCESS.start @ v).expand(2, 2), PROCESS.reward)
            flags = torch.zeros(len(rows), dtype=torch.bool)
            knobs = {"temperature": temperature, "discount": DISCOUNT, **more}
            return loss(*(x.flatten()[rows] for x in parts), flags, **knobs)

        return mean

    one, other = sampled(smodice_loss), sampled(opti_dice_loss, divergence="kl")
    v, w = minimized(one, 2), minimized(other, 2)
    close(one(v), other(w), 1e-5)
    ratio = len(rows) * mpo_weights(errors(v).flatten()[rows], temperature=temperature)
    close(ratio, dice_weights(errors(w).flatten()[rows], divergence="kl", temperature=temperature), 1e-4)


@given(data=st.data(), temperature=temperatures, shift=reals(-50.0, 50.0))
def test_smodice_does_not_see_a_constant(data: st.DataObject, temperature: float, shift: float) -> None:
    """Added to all values, where nothing is terminated; added to the rewards it comes out again."""
    shape = data.draw(batches(1, 1))
    x = [data.draw(tensors(shape)) for _ in range(4)]
    never, knobs = torch.zeros(shape, dtype=torch.bool), {"temperature": temperature, "discount": 0.8}
    loss = smodice_loss(*x, never, **knobs)
    close(smodice_loss(*(each + shift for each in x[:3]), x[3], never, **knobs), loss)
    close(smodice_loss(*x[:3], x[3] + shift, never, **knobs), loss + shift)


def test_smodice_of_large_errors() -> None:
    """The exponentials of neither end leave the range of floats."""
    zero, end = torch.zeros(2), torch.ones(2, dtype=torch.bool)
    for large in (1e4, -1e4):
        reward = torch.tensor([large, large - 1])
        close(smodice_loss(zero, zero, zero, reward, end), large + torch.tensor([0.0, -1.0]).exp().mean().log(), 1e-6)
    mask = torch.tensor([True, False])
    close(smodice_loss(zero, zero, zero, torch.tensor([-1e4, 1e4]), end, mask=mask), -1e4)


def test_smodice_has_one_denominator() -> None:
    """Its logarithm is of the mean over all samples: no run has one of its own."""
    x, end = torch.zeros(3, 5), torch.ones(3, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"smodice_loss: denominator: expected shape \[\], got shape \[3, 1\]"):
        smodice_loss(x, x, x, x, end, denominator=torch.full((3, 1), 5.0))
    close(smodice_loss(x + 1, x, x, x, end, denominator=torch.tensor(3)), smodice_loss(x + 1, x, x, x, end) * 5)


def test_no_next_value_of_an_end_is_read() -> None:
    """Nor in the gradient."""
    value = torch.ones(1, dtype=torch.float64, requires_grad=True)
    following = torch.full((1,), torch.nan, dtype=torch.float64, requires_grad=True)
    end, one = torch.tensor([True]), torch.ones(1, dtype=torch.float64)
    for loss in (opti_dice_loss, smodice_loss):
        slopes = torch.autograd.grad(loss(value, following, one, one, end), [value, following])
        assert all(slope.isfinite().all() for slope in slopes)
