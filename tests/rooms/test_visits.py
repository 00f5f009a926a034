"""The laws of DICE for a policy: a minimum is its value, and the slopes there are its visits over the data's."""

from __future__ import annotations

import pytest
import torch
from comparison import close, gradients
from evaluation import PROCESS
from hypothesis import given
from hypothesis import strategies as st
from strategies import batches, masks, reals, temperatures, tensors
from torch import Tensor
from visiting import DATA, DISCOUNT, STAYS, minimized, of_action_values, returns, visits

from offline_losses import algae_dice_loss, dual_dice_loss


@pytest.mark.parametrize("exponent", [2.0, 3.0])
def test_dual_dice_finds_the_ratio_of_visits(exponent: float) -> None:
    """And by it the value of the policy, from rewards that the loss never saw."""
    policy = PROCESS.policy
    loss = of_action_values(dual_dice_loss, policy, exponent=exponent)
    nu = minimized(loss, 2, 2)
    delta = nu - DISCOUNT * STAYS @ (policy * nu).sum(-1)
    ratio = delta.abs() ** (exponent - 1) * delta.sign()
    close(ratio, visits(policy) / DATA, 1e-4)
    close((DATA * ratio * PROCESS.reward).sum(), returns(policy), 1e-4)


@given(temperature=temperatures, exponent=st.sampled_from([2.0, 3.0]))
def test_algae_dice_is_the_value_less_the_divergence(temperature: float, exponent: float) -> None:
    """Its minimum is the return less the price of the divergence, which is that of the conjugate exponent."""
    policy = PROCESS.policy
    more = {"reward": PROCESS.reward, "temperature": temperature, "exponent": exponent}
    loss = of_action_values(algae_dice_loss, policy, **more)
    ratio, q = visits(policy) / DATA, exponent / (exponent - 1)
    dear = temperature * (DATA * ratio.abs() ** q / q).sum()
    close(loss(minimized(loss, 2, 2)), returns(policy) - dear, 1e-5)


def test_algae_dice_moves_the_policy_where_its_return_rises() -> None:
    """At the critic's minimum, the slope along the policy is that of the return less the divergence."""
    logits = PROCESS.behavior.log()

    def least(logits: Tensor) -> Tensor:
        policy = logits.softmax(-1)
        return returns(policy) - (visits(policy) ** 2 / DATA).sum() / 2

    loss = of_action_values(algae_dice_loss, logits.softmax(-1), reward=PROCESS.reward)
    nu = minimized(loss, 2, 2)
    moved = gradients(lambda x: of_action_values(algae_dice_loss, x.softmax(-1), reward=PROCESS.reward)(nu), logits)
    close(moved[0], gradients(least, logits)[0], 1e-6)


@given(data=st.data())
def test_dual_dice_is_algae_dice_of_no_reward(data: st.DataObject) -> None:
    """With the sign of the critic turned round."""
    shape = data.draw(batches())
    value, following, first = (data.draw(tensors(shape)) for _ in range(3))
    end, exponent = data.draw(masks(shape)), data.draw(reals(1.2, 3.0))
    dual = dual_dice_loss(value, following, first, end, exponent=exponent, discount=0.7)
    zero = torch.zeros_like(value)
    close(dual, algae_dice_loss(-value, -following, -first, zero, end, exponent=exponent, discount=0.7))


def test_an_end_and_an_error_of_zero() -> None:
    """No next value of an end is read, nor in the gradient; an error of zero adds nothing, with a finite curvature."""
    value = torch.ones(1, dtype=torch.float64, requires_grad=True)
    following = torch.full((1,), torch.nan, dtype=torch.float64, requires_grad=True)
    end, one = torch.tensor([True]), torch.ones(1, dtype=torch.float64)
    slopes = torch.autograd.grad(algae_dice_loss(value, following, one, one, end), [value, following])
    assert all(slope.isfinite().all() for slope in slopes)
    loss = dual_dice_loss(value, value, one, ~end, discount=1.0)
    assert loss == 0
    slope = torch.autograd.grad(loss, value, create_graph=True)[0]
    assert torch.autograd.grad(slope.sum(), value)[0].isfinite()
