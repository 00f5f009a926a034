"""The laws of policies over finitely many actions: what is expected, what may be infinite, who keeps its reward."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES, reduced
from strategies import batches, candidate_masks, discounts, masks, reals, temperatures, tensors
from torch import Tensor

from offline_losses import (
    advantage_learning_reward,
    bellman_target,
    discrete_sac_loss,
    discrete_soft_target,
    expected_target,
    munchausen_reward,
    sac_policy_loss,
    soft_value,
)

INF = float("inf")


@st.composite
def policies(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Logits and values [*batch, N]; an action that is never taken may be worth anything."""
    shape = (*draw(batches(1, 2)), draw(st.integers(1, 4)))
    taken = draw(candidate_masks(shape))
    value = draw(tensors(shape))
    extreme = torch.where(value > 0, INF, -INF)
    return torch.where(taken, draw(tensors(shape, -3.0, 3.0)), -INF), torch.where(taken, value, extreme)


@given(x=policies(), t=st.one_of(st.just(0.0), temperatures), data=st.data())
def test_the_loss_follows_the_paper(x: tuple[Tensor, Tensor], t: float, data: st.DataObject) -> None:
    """With mask and weight of states; a constant added to the logits changes nothing."""
    mask, weight = data.draw(masks(x[0].shape[:-1])), data.draw(tensors(x[0].shape[:-1], 0.0, 3.0))
    wanted = ORACLES["discrete_sac_loss"](*(each.numpy() for each in x), temperature=t)
    found = discrete_sac_loss(*x, temperature=t, mask=mask, weight=weight)
    close(found, reduced(wanted, mask=mask.numpy(), weight=weight.numpy()))
    close(discrete_sac_loss(x[0] + 5, x[1], temperature=t, reduction="none"), wanted)


@given(x=policies(), t=temperatures)
def test_the_loss_is_the_mean_over_sampled_actions(x: tuple[Tensor, Tensor], t: float) -> None:
    """Each action's loss as if it had been drawn, times how often it is."""
    log_p = x[0].log_softmax(-1)
    drawn = sac_policy_loss(log_p, x[1], temperature=t, reduction="none")
    mean = torch.where(log_p > -INF, log_p.exp() * drawn, 0.0).sum(-1)
    close(discrete_sac_loss(*x, temperature=t, reduction="none"), mean)


@given(data=st.data(), t=temperatures)
def test_the_best_policy_is_the_softmax(data: st.DataObject, t: float) -> None:
    """There the loss is minus the soft value and its slope zero; no policy is below."""
    q, other = data.draw(tensors((2, 3), -2.0, 2.0)), data.draw(tensors((2, 3), -2.0, 2.0))
    close(discrete_sac_loss(q / t, q, temperature=t, reduction="none"), -soft_value(q, temperature=t))
    close(gradients(lambda x: discrete_sac_loss(x, q, temperature=t), q / t)[0], 0.0)
    not_above(discrete_sac_loss(q / t, q, temperature=t), discrete_sac_loss(other, q, temperature=t))
    (slope,) = gradients(lambda x: discrete_sac_loss(other, x, temperature=t, reduction="sum"), q)
    close(slope, -other.softmax(-1))


@given(x=policies(), t=temperatures, discount=discounts, data=st.data())
def test_the_target_follows_the_paper(x: tuple[Tensor, Tensor], t: float, discount: float, data: st.DataObject) -> None:
    """At temperature zero it is the expected one, with the softmax policy that of the soft value."""
    logits, q = x
    shape = q.shape[:-1]
    reward, end = data.draw(tensors(shape)), data.draw(masks(shape))
    knobs = {"temperature": t, "discount": discount}
    wanted = ORACLES["discrete_soft_target"](reward.numpy(), q.numpy(), logits.numpy(), end.numpy(), **knobs)
    close(discrete_soft_target(reward, q, logits, end, **knobs), wanted)
    cold = discrete_soft_target(reward, q, logits, end, temperature=0.0, discount=discount)
    close(cold, expected_target(reward, q, logits.softmax(-1), end, discount=discount))
    finite = torch.where(q.abs() < INF, q, 0.0)
    soft = bellman_target(reward, soft_value(finite, temperature=t), end, discount=discount)
    close(discrete_soft_target(reward, finite, finite / t, end, **knobs), soft)


@given(x=policies(), t=temperatures)
def test_actions_never_taken_have_no_gradient(x: tuple[Tensor, Tensor], t: float) -> None:
    """Infinite as their value may be; and a terminated step has none at all, over NaN."""
    taken = x[0] > -INF
    for slope in gradients(lambda p, q: discrete_sac_loss(p, q, temperature=t), *x):
        assert slope.isfinite().all()
        assert bool((slope[~taken] == 0).all())
    reward = torch.zeros(x[0].shape[:-1], dtype=torch.float64)
    nothing = torch.full_like(x[0], torch.nan)
    end = torch.ones(reward.shape, dtype=torch.bool)
    assert bool((discrete_soft_target(reward, nothing, nothing, end) == 0).all())
    for slope in gradients(lambda p, q: discrete_soft_target(reward, q, p, end), nothing, nothing):
        assert bool((slope == 0).all())


def test_a_state_without_actions() -> None:
    """No loss and no gradient."""
    logits, q = torch.full((1, 2), -INF), torch.ones(1, 2)
    assert discrete_sac_loss(logits, q) == 0
    for slope in gradients(discrete_sac_loss, logits, q):
        assert bool((slope == 0).all())


def test_the_defaults() -> None:
    """Temperature 1, discount 0.99; Munchausen's 0.03, 0.9 and −1; 0.9 of the gap."""
    one, end = torch.ones(1).double(), torch.zeros(1, dtype=torch.bool)
    zero = torch.zeros(1, 2).double()
    close(discrete_sac_loss(zero, zero), -math.log(2))
    close(discrete_soft_target(0 * one, zero, zero, end), 0.99 * math.log(2))
    close(munchausen_reward(one, -10 * one), 1 - 0.9 * 0.3)
    close(munchausen_reward(one, -100 * one), 1 - 0.9)
    close(advantage_learning_reward(one, one, 3 * one), 1 - 1.8)


# Rewards that widen the gap.


@given(data=st.data(), t=temperatures, share=reals(0.0, 1.0), low=reals(-3.0, 0.0))
def test_rewards_follow_the_papers(data: st.DataObject, t: float, share: float, low: float) -> None:
    """Both, for any knobs; neither ever adds to a reward."""
    shape = data.draw(batches())
    reward, log_prob, q = (data.draw(tensors(shape)) for _ in range(3))
    knobs = {"temperature": t, "bonus_weight": share, "min_bonus": low}
    found = munchausen_reward(reward, log_prob, **knobs)
    close(found, ORACLES["munchausen_reward"](reward.numpy(), log_prob.numpy(), **knobs))
    not_above(found, reward)
    not_above(reward + share * low, found)
    value = torch.maximum(q, log_prob)
    found = advantage_learning_reward(reward, q, value, bonus_weight=share)
    wanted = ORACLES["advantage_learning_reward"](reward.numpy(), q.numpy(), value.numpy(), bonus_weight=share)
    close(found, wanted)
    not_above(found, reward)
    assert munchausen_reward(reward, log_prob, bonus_weight=0.0).equal(reward)
    assert advantage_learning_reward(reward, q, value, bonus_weight=0.0).equal(reward)


@given(data=st.data())
def test_munchausen_at_a_low_temperature_is_advantage_learning(data: st.DataObject) -> None:
    """T log π of the softmax is Q less its soft maximum, and at last less its maximum."""
    q = data.draw(tensors((3, 4), -0.5, 0.5))
    reward = data.draw(tensors((3,)))
    t = 1e-6
    log_prob = (q / t).log_softmax(-1)[:, 0]
    found = munchausen_reward(reward, log_prob, temperature=t, bonus_weight=0.7)
    close(found, advantage_learning_reward(reward, q[:, 0], q.amax(-1), bonus_weight=0.7), 1e-5)


def test_the_bonus_is_bounded_on_both_sides() -> None:
    """An impossible action costs the least bonus, a density above one adds nothing; neither has a gradient."""
    log_prob = torch.tensor([-INF, -50.0, -1.0, 2.0])
    found = munchausen_reward(torch.zeros(4), log_prob, temperature=0.1, bonus_weight=0.5, min_bonus=-1.0)
    close(found, torch.tensor([-0.5, -0.5, -0.05, 0.0]), 1e-6)
    (slope,) = gradients(lambda x: munchausen_reward(torch.zeros(4), x, temperature=0.1, bonus_weight=0.5), log_prob)
    close(slope, torch.tensor([0.0, 0.0, 0.05, 0.0]), 1e-6)
    assert munchausen_reward(torch.zeros(4), log_prob, temperature=0.0)[0] == 0
    bounds = torch.tensor([-1.0, 0.0])  # they are not beyond themselves
    (slope,) = gradients(
        lambda x: munchausen_reward(torch.zeros(2), x, temperature=0.5, bonus_weight=0.5, min_bonus=-0.5), bounds
    )
    close(slope, torch.tensor([0.25, 0.25]))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_advantage_learning_keeps_the_best_action_and_widens_the_gap(share: float) -> None:
    """Values of a bandit, learned with the changed reward: the gap grows by 1 / (1 - share), below the same best."""
    reward, q = torch.tensor([1.0, 0.5]).double(), torch.zeros(2).double()
    for _ in range(300):
        q = q + 0.5 * (advantage_learning_reward(reward, q, q.amax().expand(2), bonus_weight=share) - q)
    close(q[0], reward[0], 1e-4)
    close(q[0] - q[1], 0.5 / (1 - share), 1e-3)


def test_a_row_of_values_belongs_to_each_reward() -> None:
    """Rewards of another batch are refused by name."""
    q, end = torch.zeros(5, 3), torch.zeros(4, dtype=torch.bool)
    with pytest.raises(ValueError, match="discrete_soft_target: reward: expected shape"):
        discrete_soft_target(torch.zeros(4), q, q, end)


def test_a_policy_that_is_no_number_is_not_taken_for_one_without_actions() -> None:
    """A network that has diverged shows in the loss and in the target."""
    q, nan = torch.ones(2, 3), torch.full((2, 3), math.nan)
    assert discrete_sac_loss(nan, q).isnan()
    end = torch.tensor([False, False])
    assert discrete_soft_target(torch.ones(2), q, nan, end).isnan().all()
