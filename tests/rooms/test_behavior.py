"""The laws of behavior regularization: what the scale of Q changes, who pays for which distance, and where none is."""

from __future__ import annotations

import pytest
import torch
from comparison import close, gradients
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES, reduced
from strategies import batches, discounts, masks, reals, residuals, tensors
from torch import Tensor

from offline_losses import (
    bellman_target,
    ddpg_bc_loss,
    nll_loss,
    rebrac_policy_loss,
    rebrac_target,
    td3_bc_loss,
)

NAN = float("nan")


@st.composite
def actors(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """q [*batch] away from zero, policy and data actions [*batch, A]."""
    shape = draw(batches(1, 2))
    wide = (*shape, draw(st.integers(1, 4)))
    return draw(residuals(shape)), draw(tensors(wide, -1.0, 1.0)), draw(tensors(wide, -1.0, 1.0))


@given(x=actors(), bc_weight=reals(0.0, 5.0), data=st.data())
def test_policy_losses_follow_the_papers(
    x: tuple[Tensor, Tensor, Tensor], bc_weight: float, data: st.DataObject
) -> None:
    """With mask and weight; masked samples do not normalize."""
    log_prob = data.draw(tensors(x[0].shape))
    mask, weight = data.draw(masks(x[0].shape)), data.draw(tensors(x[0].shape, 0.0, 3.0))
    for function, inputs in ((rebrac_policy_loss, x), (ddpg_bc_loss, (x[0], log_prob))):
        plain = [each.numpy() for each in inputs]
        wanted = ORACLES[function.__name__](*plain, bc_weight=bc_weight, mask=mask.numpy())
        found = function(*inputs, bc_weight=bc_weight, mask=mask, weight=weight)
        close(found, reduced(wanted, mask=mask.numpy(), weight=weight.numpy()))


@given(x=actors(), c=reals(0.1, 100.0), data=st.data())
def test_the_unit_of_q_does_not_matter(x: tuple[Tensor, Tensor, Tensor], c: float, data: st.DataObject) -> None:
    """c Q gives the same losses; the slope in Q is exactly minus one over its mean size and the batch's."""
    q, policy, action = x
    log_prob = data.draw(tensors(q.shape))
    for loss in (lambda q: rebrac_policy_loss(q, policy, action), lambda q: ddpg_bc_loss(q, log_prob)):
        close(loss(c * q), loss(q))
        close(gradients(loss, q)[0], float(-1 / q.abs().mean() / q.numel()))
    for loss_of in (lambda **k: rebrac_policy_loss(q, policy, action, **k), lambda **k: ddpg_bc_loss(q, log_prob, **k)):
        close(loss_of(normalizer=q.abs().mean()), loss_of())
        close(loss_of(normalizer=c) - loss_of(normalizer=2 * c), -q.mean() / (2 * c))


@given(x=actors(), bc_weight=reals(0.1, 5.0))
def test_rebrac_is_td3_bc_with_the_weight_on_the_other_term(x: tuple[Tensor, Tensor, Tensor], bc_weight: float) -> None:
    """And a sum over dimensions where that has a mean: each dimension twice is twice the distance."""
    q, policy, action = x
    a = policy.shape[-1]
    ours = td3_bc_loss(q, policy, action, q_weight=1 / (bc_weight * a))
    close(rebrac_policy_loss(q, policy, action, bc_weight=bc_weight), bc_weight * a * ours)
    twice = rebrac_policy_loss(q, torch.cat([policy] * 2, -1), torch.cat([action] * 2, -1), bc_weight=bc_weight)
    close(twice, rebrac_policy_loss(q, policy, action, bc_weight=2 * bc_weight))


@given(x=actors(), data=st.data())
def test_without_imitation_only_the_critic_is_left(x: tuple[Tensor, Tensor, Tensor], data: st.DataObject) -> None:
    """Weight zero: minus the sign of Q's mean, whatever actions and log-probabilities are; else both add up."""
    q, policy, action = x
    log_prob = data.draw(tensors(q.shape))
    climb = -q.mean() / q.abs().mean()
    close(rebrac_policy_loss(q, policy, action, bc_weight=0.0), climb)
    close(ddpg_bc_loss(q, torch.full_like(log_prob, -torch.inf), bc_weight=0.0), climb)
    close(ddpg_bc_loss(q, log_prob, bc_weight=0.7), climb + 0.7 * nll_loss(log_prob))
    pull, _ = gradients(lambda p, a: rebrac_policy_loss(q, p, a, bc_weight=0.7), policy, action)
    close(pull, 1.4 * (policy - action) / q.numel())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_critic_of_zeros(dtype: torch.dtype) -> None:
    """Q = 0 everywhere: imitation alone, and a slope bounded by epsilon."""
    q, action = torch.zeros(4, dtype=dtype), torch.ones(4, 2, dtype=dtype)
    close(rebrac_policy_loss(q, action, 0 * action, bc_weight=1.0).double(), 2.0)
    close(ddpg_bc_loss(q, q - 3, bc_weight=1.0).double(), 3.0)
    for loss in (
        lambda q, **k: rebrac_policy_loss(q, action, action, **k),
        lambda q, **k: ddpg_bc_loss(q, torch.zeros(4, dtype=dtype), **k),
    ):
        close(gradients(lambda q, f=loss: f(q, epsilon=0.5), q)[0].double(), -0.5)
        assert bool(gradients(loss, q)[0].isfinite().all())
        close(gradients(loss, q)[0].double(), -1e6 / 4, 1e-6)


@given(x=actors(), data=st.data())
def test_masked_samples_do_not_exist(x: tuple[Tensor, Tensor, Tensor], data: st.DataObject) -> None:
    """What stands there, NaN included, changes neither normalizer nor loss nor a gradient."""
    q, policy, action = (each.flatten(0, x[0].dim() - 1) for each in x)
    mask = data.draw(masks(q.shape))
    hidden = [torch.where(mask if each.dim() == 1 else mask[:, None], each, NAN) for each in (q, policy, action)]
    slopes = gradients(lambda *each: rebrac_policy_loss(*each, mask=mask), *hidden)
    if mask.any():
        close(rebrac_policy_loss(*hidden, mask=mask), rebrac_policy_loss(q[mask], policy[mask], action[mask]))
        close(ddpg_bc_loss(hidden[0], hidden[0], mask=mask), ddpg_bc_loss(q[mask], q[mask]))
    assert all(bool((slope[~mask] == 0).all()) and bool(slope.isfinite().all()) for slope in slopes)


def test_the_defaults() -> None:
    """DDPG+BC weighs both terms alike; ReBRAC's weights are 0.01."""
    one = torch.ones(2, dtype=torch.float64)
    close(ddpg_bc_loss(one, 0 * one - 3), 2.0)
    close(rebrac_policy_loss(one, one[:, None], 0 * one[:, None]), -0.99)
    no = torch.zeros(2, dtype=torch.bool)
    close(rebrac_target(0 * one, one, one[:, None], 0 * one[:, None], no, no), 0.99 * 0.99)


# The critic's target.


@st.composite
def steps(draw: st.DrawFn) -> dict[str, Tensor]:
    """Rewards, values and flags [*batch], actions [*batch, A]; terminated steps are done."""
    shape = draw(batches(1, 2))
    wide = (*shape, draw(st.integers(1, 3)))
    done = draw(masks(shape))
    return {
        "reward": draw(tensors(shape)),
        "next_value": draw(tensors(shape)),
        "next_policy_action": draw(tensors(wide, -1.0, 1.0)),
        "next_data_action": draw(tensors(wide, -1.0, 1.0)),
        "terminated": done & draw(masks(shape)),
        "done": done,
    }


@given(x=steps(), discount=discounts, bc_weight=reals(0.0, 5.0))
def test_the_target_follows_the_paper(x: dict[str, Tensor], discount: float, bc_weight: float) -> None:
    """And never lies above the plain one, which it is without a weight."""
    knobs = {"discount": discount, "bc_weight": bc_weight}
    target = rebrac_target(**x, **knobs)
    close(target, ORACLES["rebrac_target"](**{name: each.numpy() for name, each in x.items()}, **knobs))
    plain = bellman_target(x["reward"], x["next_value"], x["terminated"], discount=discount)
    close(rebrac_target(**x, discount=discount, bc_weight=0.0), plain)
    assert bool((target <= plain).all())
    assert target[x["done"]].equal(plain[x["done"]])


@given(x=steps(), discount=discounts)
def test_an_end_has_no_next_action(x: dict[str, Tensor], discount: float) -> None:
    """What stands there, NaN included, has no influence on target or gradient; nor a value after the very end."""
    hidden = dict(x)
    hidden["next_data_action"] = torch.where(x["done"].unsqueeze(-1), NAN, x["next_data_action"])
    hidden["next_value"] = torch.where(x["terminated"], NAN, x["next_value"])
    names = ["reward", "next_value", "next_policy_action", "next_data_action"]

    def target(*values: Tensor) -> Tensor:
        return rebrac_target(**{**hidden, **dict(zip(names, values, strict=True))}, discount=discount)

    close(target(*(hidden[name] for name in names)), rebrac_target(**x, discount=discount))
    for slope in gradients(target, *(hidden[name] for name in names)):
        assert slope.isfinite().all()
    slope = gradients(target, *(hidden[name] for name in names))[3]
    assert bool((slope[x["done"]] == 0).all())


def test_the_next_row_of_another_episode_is_not_a_next_action() -> None:
    """Rolled flat data: the first action of the next episode costs nothing, in the middle of an episode it does."""
    action = torch.tensor([[0.0], [1.0], [5.0], [5.0]])
    done = torch.tensor([False, True, False, True])
    zero = torch.zeros(4)
    target = rebrac_target(
        zero,
        zero,
        torch.zeros(4, 1),
        action.roll(-1, 0),
        torch.zeros(4, dtype=torch.bool),
        done,
        bc_weight=1.0,
        discount=0.5,
    )
    assert target.tolist() == [-0.5, 0, -12.5, 0]


def test_shapes_are_told_apart() -> None:
    """Actions of other dimensions, a column of values."""
    vector, no = torch.zeros(5), torch.zeros(5, dtype=torch.bool)
    with pytest.raises(ValueError, match="rebrac_policy_loss"):
        rebrac_policy_loss(vector[:, None], torch.zeros(5, 2), torch.zeros(5, 2))
    with pytest.raises(ValueError, match="rebrac_target: next_data_action"):
        rebrac_target(vector, vector, torch.zeros(5, 2), torch.zeros(5, 1), no, no)
    with pytest.raises(ValueError, match="rebrac_target: reward"):
        rebrac_target(vector[:4], vector[:4], torch.zeros(5, 2), torch.zeros(5, 2), no, no)
