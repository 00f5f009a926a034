"""The laws of the one-step targets: what terminates, what contracts, and how they reduce to each other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from comparison import close, gradients, not_above
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from strategies import (
    batches,
    discounts,
    distinct,
    masks,
    probabilities,
    reals,
    temperatures,
    tensors,
)
from torch import Tensor

from offline_losses import (
    bellman_target,
    candidate_max_value,
    double_q_target,
    expected_target,
    n_step_return,
    soft_bellman_target,
    soft_value,
    softmax_weights,
)

NAN = float("nan")
INF = float("inf")

Target = Callable[..., Tensor]
TARGETS = [bellman_target, soft_bellman_target, expected_target, double_q_target]
each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)


@st.composite
def bootstraps(draw: st.DrawFn, target: Target, shape: tuple[int, ...]) -> list[Tensor]:
    """The arguments between reward and terminated."""
    actions = (*shape, draw(st.integers(1, 4)))
    if target is bellman_target:
        return [draw(tensors(shape))]
    if target is soft_bellman_target:
        return [draw(tensors(shape)), draw(tensors(shape, -3.0, 3.0))]
    if target is expected_target:
        return [draw(tensors(actions)), draw(probabilities(actions))]
    return [draw(distinct(actions)), draw(tensors(actions))]


@each_target
@given(data=st.data())
def test_follows_the_paper(target: Target, data: st.DataObject) -> None:
    """Each target equals its loop, with one discount or one for each sample."""
    shape = data.draw(batches(0, 2))
    reward, terminated = data.draw(tensors(shape)), data.draw(masks(shape))
    following = data.draw(bootstraps(target, shape))
    discount = data.draw(discounts | tensors(shape, 0.0, 1.0))
    plain = discount.numpy() if isinstance(discount, Tensor) else discount
    expected = ORACLES[target.__name__](
        reward.numpy(), *[x.numpy() for x in following], terminated.numpy(), discount=plain
    )
    close(target(reward, *following, terminated, discount=discount), expected)


@each_target
@given(data=st.data())
def test_nothing_follows_a_terminal_step(target: Target, data: st.DataObject) -> None:
    """Terminated: the target is the reward, bit by bit, though all that follows is NaN."""
    shape = data.draw(batches())
    reward, terminated = data.draw(tensors(shape)), data.draw(masks(shape))
    following = data.draw(bootstraps(target, shape))
    over = [terminated.reshape(*shape, *[1] * (x.dim() - len(shape))) for x in following]
    poisoned = [torch.where(t, NAN, x) for t, x in zip(over, following, strict=True)]
    discount = torch.tensor(0.9, dtype=torch.float64)

    def of(reward: Tensor, discount: Tensor, *following: Tensor) -> Tensor:
        return target(reward, *following, terminated, discount=discount)

    got = of(reward, discount, *poisoned)
    assert bool((got[terminated] == reward[terminated]).all())
    close(got, of(reward, discount, *following))
    clean, dirty = gradients(of, reward, discount, *following), gradients(of, reward, discount, *poisoned)
    for wanted, slope in zip(clean, dirty, strict=True):
        close(slope, wanted)
    for slope, t in zip(dirty[2:], over, strict=True):
        assert bool((torch.where(t, slope, 0.0) == 0).all())


def test_the_temperature_does_not_see_what_follows_an_end() -> None:
    """A NaN log-probability behind a terminal step leaves the temperature's gradient alone."""
    reward, value = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    log_prob = torch.tensor([NAN, -2.0], dtype=torch.float64)
    ends = torch.tensor([True, False])
    t = torch.tensor(0.5, dtype=torch.float64)
    (slope,) = gradients(lambda t: soft_bellman_target(reward, value, log_prob, ends, temperature=t, discount=0.9), t)
    close(slope, 1.8)


@each_target
@given(data=st.data())
def test_the_reward_is_added_once(target: Target, data: st.DataObject) -> None:
    """Adding c to the reward adds c to the target; discount 0 leaves the reward alone."""
    shape = data.draw(batches())
    reward, terminated = data.draw(tensors(shape)), data.draw(masks(shape))
    following, c = data.draw(bootstraps(target, shape)), data.draw(reals())
    discount = data.draw(discounts)
    moved = target(reward + c, *following, terminated, discount=discount)
    close(moved, target(reward, *following, terminated, discount=discount) + c)
    close(target(reward, *following, terminated, discount=0.0), reward)


@each_target
@given(data=st.data())
def test_linear_in_the_discount(target: Target, data: st.DataObject) -> None:
    """The bootstrap is proportional to the discount; each sample may have its own."""
    shape = data.draw(batches())
    reward, terminated = data.draw(tensors(shape)), data.draw(masks(shape))
    following = data.draw(bootstraps(target, shape))
    discount = data.draw(tensors(shape, 0.0, 1.0))
    whole = target(reward, *following, terminated, discount=1.0) - reward
    close(target(reward, *following, terminated, discount=discount), reward + discount * whole)
    single = torch.tensor(0.7, dtype=torch.float64)
    close(
        target(reward, *following, terminated, discount=single),
        target(reward, *following, terminated, discount=0.7),
    )


@each_target
@given(data=st.data())
def test_raising_the_value_by_c_raises_the_target_by_discount_c(target: Target, data: st.DataObject) -> None:
    """A constant added to every next value arrives discounted, and not at all after an end."""
    shape = data.draw(batches())
    reward, terminated = data.draw(tensors(shape)), data.draw(masks(shape))
    following, c = data.draw(bootstraps(target, shape)), data.draw(reals())
    lifted = list(following)
    values = 1 if target is double_q_target else 0
    lifted[values] = lifted[values] + c
    rise = target(reward, *lifted, terminated, discount=0.9)
    rise = rise - target(reward, *following, terminated, discount=0.9)
    close(rise, torch.where(terminated, 0.0, torch.full_like(reward, 0.9 * c)), 1e-8)


@each_target
def test_quantities_never_detach(target: Target) -> None:
    """Every differentiable argument receives its gradient: the caller decides what is frozen."""
    reward = torch.randn(4, dtype=torch.float64)
    wide = [torch.rand(4, 3, dtype=torch.float64) for _ in range(2)]
    flat = [torch.rand(4, dtype=torch.float64) for _ in range(2)]
    following = {
        bellman_target: flat[:1],
        soft_bellman_target: flat,
        expected_target: wide,
        double_q_target: wide,
    }[target]
    ends = torch.zeros(4, dtype=torch.bool)
    slopes = gradients(lambda r, *f: target(r, *f, ends), reward, *following)
    flows = [bool((slope != 0).any()) for slope in slopes]
    # The online critic only chooses an action, and a choice has no derivative.
    assert flows == [True, False, True] if target is double_q_target else all(flows)


@each_target
def test_a_column_is_not_a_vector(target: Target) -> None:
    """[B, 1] rewards or flags against [B] values are an error that names both shapes."""
    vector, column = torch.zeros(5), torch.zeros(5, 1)
    ends = torch.zeros(5, dtype=torch.bool)
    following = {
        bellman_target: [vector],
        soft_bellman_target: [vector, vector],
        expected_target: [torch.zeros(5, 3), torch.ones(5, 3) / 3],
        double_q_target: [torch.zeros(5, 3), torch.zeros(5, 3)],
    }[target]
    with pytest.raises(ValueError, match=target.__name__) as error:
        target(column, *following, ends)
    assert "5, 1" in str(error.value)
    with pytest.raises(ValueError, match="terminated"):
        target(vector, *following, ends[:, None])
    with pytest.raises(ValueError, match="discount"):
        target(vector, *following, ends, discount=torch.ones(5, 1))


@pytest.mark.parametrize("target", [expected_target, double_q_target], ids=lambda target: target.__name__)
def test_values_of_other_steps_are_refused(target: Target) -> None:
    """One row for all steps, or as many as there are steps and one more axis."""
    reward, ends = torch.zeros(4), torch.zeros(4, dtype=torch.bool)
    for shape in [(1, 3), (2, 4, 3)]:
        with pytest.raises(ValueError, match=f"{target.__name__}: reward: expected shape"):
            target(reward, torch.ones(shape), torch.ones(shape), ends)


def test_the_defaults() -> None:
    """Discount 0.99, temperature 1."""
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    wide, no = one[:, None], torch.zeros(1, dtype=torch.bool)
    close(bellman_target(zero, one, no), 0.99)
    close(soft_bellman_target(zero, one, -one, no), 1.98)
    close(expected_target(zero, wide, wide, no), 0.99)
    close(double_q_target(zero, wide, wide, no), 0.99)


@given(data=st.data())
def test_the_bellman_operator_contracts(data: st.DataObject) -> None:
    """Two value functions are at most `discount` times as far apart after one backup."""
    shape = data.draw(batches())
    reward, terminated = data.draw(tensors(shape)), data.draw(masks(shape))
    one, two = data.draw(tensors(shape)), data.draw(tensors(shape))
    discount = data.draw(discounts)
    after = bellman_target(reward, one, terminated, discount=discount)
    after = after - bellman_target(reward, two, terminated, discount=discount)
    not_above(after.abs().max(), discount * (one - two).abs().max())


@given(data=st.data())
def test_n_steps_are_one_long_step(data: st.DataObject) -> None:
    """A backup over n steps is one backup of the n-step reward with the discount to the n."""
    steps = data.draw(st.integers(1, 6))
    reward, value = data.draw(tensors((steps,))), data.draw(reals())
    no = torch.zeros(steps, dtype=torch.bool)
    values = torch.full((steps,), value, dtype=torch.float64)
    long = n_step_return(reward, values, no, no, n=steps, discount=0.9)[0]
    rewards = sum(0.9**k * reward[k] for k in range(steps))
    rate = torch.full((), 0.9**steps, dtype=torch.float64)
    close(bellman_target(rewards, values[0], no[0], discount=rate), long)


@given(data=st.data())
def test_the_entropy_bonus(data: st.DataObject) -> None:
    """Soft minus plain target is exactly -discount T log pi', and 0 after an end."""
    shape = data.draw(batches())
    reward, terminated = data.draw(tensors(shape)), data.draw(masks(shape))
    value, log_prob = data.draw(tensors(shape)), data.draw(tensors(shape, -3.0, 3.0))
    t, discount = data.draw(temperatures), data.draw(discounts)
    soft = soft_bellman_target(reward, value, log_prob, terminated, temperature=t, discount=discount)
    bonus = torch.where(terminated, 0.0, -discount * t * log_prob)
    close(soft, bellman_target(reward, value, terminated, discount=discount) + bonus)
    cold = soft_bellman_target(reward, value, log_prob, terminated, temperature=0.0, discount=discount)
    close(cold, bellman_target(reward, value, terminated, discount=discount))


@given(data=st.data())
def test_an_unlikely_action_is_worth_more(data: st.DataObject) -> None:
    """The soft target falls as the next action becomes more probable: entropy is rewarded."""
    reward, value, low = (data.draw(tensors((4,))) for _ in range(3))
    high = low + data.draw(tensors((4,), 0.1, 2.0))
    no = torch.zeros(4, dtype=torch.bool)
    likely = soft_bellman_target(reward, value, high, no, temperature=0.5)
    assert bool((likely < soft_bellman_target(reward, value, low, no, temperature=0.5)).all())


@given(data=st.data())
def test_the_soft_target_under_its_own_policy_is_the_soft_value(data: st.DataObject) -> None:
    """E over p of (Q - T log p) with p = softmax(Q / T) backs up T lse(Q / T)."""
    shape = data.draw(batches())
    reward, terminated = data.draw(tensors(shape)), data.draw(masks(shape))
    q, t = data.draw(tensors((*shape, 3), -2.0, 2.0)), data.draw(reals(0.5, 5.0))
    p = softmax_weights(q, temperature=t)
    one_action_at_a_time = torch.stack(
        [soft_bellman_target(reward, q[..., a], p[..., a].log(), terminated, temperature=t) for a in range(3)],
        -1,
    )
    close(
        (p * one_action_at_a_time).sum(-1),
        bellman_target(reward, soft_value(q, temperature=t), terminated),
    )
    close(
        expected_target(reward, q - t * p.log(), p, terminated),
        bellman_target(reward, soft_value(q, temperature=t), terminated),
    )


@given(data=st.data())
def test_a_sure_action_has_no_expectation(data: st.DataObject) -> None:
    """A one-hot policy backs up that action's value; equal values need no policy."""
    shape = data.draw(batches())
    reward, terminated = data.draw(tensors(shape)), data.draw(masks(shape))
    q = data.draw(tensors((*shape, 4)))
    action = data.draw(st.integers(0, 3))
    sure = torch.zeros_like(q)
    sure[..., action] = 1.0
    close(
        expected_target(reward, q, sure, terminated),
        bellman_target(reward, q[..., action], terminated),
    )
    p = data.draw(probabilities((*shape, 4)))
    level = q[..., :1].expand_as(q)
    close(expected_target(reward, level, p, terminated), bellman_target(reward, q[..., 0], terminated))


@given(data=st.data())
def test_the_expectation_is_between_worst_and_best(data: st.DataObject) -> None:
    """min Q <= E Q <= max Q <= soft value; its slope in Q is discount times the probability."""
    shape = data.draw(batches())
    reward, p = data.draw(tensors(shape)), data.draw(probabilities((*shape, 4)))
    q = data.draw(tensors((*shape, 4)))
    no = torch.zeros(shape, dtype=torch.bool)
    middle = expected_target(reward, q, p, no, discount=0.9)
    not_above(bellman_target(reward, q.amin(-1), no, discount=0.9), middle)
    not_above(middle, bellman_target(reward, q.amax(-1), no, discount=0.9))
    slope_q, slope_p = gradients(lambda q, p: expected_target(reward, q, p, no, discount=0.9), q, p)
    close(slope_q, 0.9 * p)
    close(slope_p, 0.9 * q)


@given(data=st.data())
def test_an_impossible_action_is_absent(data: st.DataObject) -> None:
    """Q = -inf with probability 0 contributes 0, and its gradients are finite."""
    shape = data.draw(batches())
    reward, terminated = data.draw(tensors(shape)), data.draw(masks(shape))
    q, p = data.draw(tensors((*shape, 3))), data.draw(probabilities((*shape, 3)))
    more_q = torch.cat([q, torch.full_like(q[..., :1], -INF)], -1)
    more_p = torch.cat([p, torch.zeros_like(p[..., :1])], -1)
    close(expected_target(reward, more_q, more_p, terminated), expected_target(reward, q, p, terminated))
    slopes = gradients(lambda q, p: expected_target(reward, q, p, terminated), more_q, more_p)
    for slope in slopes:
        assert bool(slope.isfinite().all())


@given(data=st.data())
def test_double_q_chooses_with_one_and_values_with_the_other(data: st.DataObject) -> None:
    """Equal critics: the maximum. Otherwise the chosen action's value, never above the maximum."""
    shape = data.draw(batches())
    reward, terminated = data.draw(tensors(shape)), data.draw(masks(shape))
    online, target = data.draw(distinct((*shape, 4))), data.draw(tensors((*shape, 4)))
    best = bellman_target(reward, online.amax(-1), terminated)
    close(double_q_target(reward, online, online, terminated), best)
    got = double_q_target(reward, online, target, terminated)
    not_above(got, bellman_target(reward, target.amax(-1), terminated))
    choice = torch.nn.functional.one_hot(online.argmax(-1), 4).double()
    close(got, expected_target(reward, target, choice, terminated))
    rising = 2 * online.exp() - 1
    close(double_q_target(reward, rising, target, terminated), got)
    close(double_q_target(reward, online, -online, terminated), bellman_target(reward, -online.amax(-1), terminated))


def test_zero_times_infinity_is_zero() -> None:
    """At temperature 0 an impossible action's entropy, and what a probability or discount of 0 weighs, are nothing."""
    reward, end = torch.ones(2, dtype=torch.float64), torch.tensor([False, False])
    value = torch.tensor([3.0, 5.0], dtype=torch.float64)
    never = torch.tensor([-INF, -1.0], dtype=torch.float64)
    for zero in (0.0, torch.tensor(0.0, dtype=torch.float64)):
        soft = lambda v, p, t=zero: soft_bellman_target(reward, v, p, end, temperature=t, discount=0.5)  # noqa: E731
        close(soft(value, never), bellman_target(reward, value, end, discount=0.5))
        for slope in gradients(soft, value, never):
            assert bool(slope.isfinite().all())
        close(bellman_target(reward, torch.tensor([INF, 1.0]).double(), end, discount=zero), reward)
    q = torch.tensor([[2.0, -INF, INF], [2.0, 4.0, -INF]], dtype=torch.float64)
    p = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], dtype=torch.float64)
    expected = lambda q, p: expected_target(reward, q, p, end, discount=0.5)  # noqa: E731
    close(expected(q, p), torch.tensor([2.0, 2.5], dtype=torch.float64))
    for slope in gradients(expected, q, p):
        assert bool(slope.isfinite().all())
    slope = gradients(expected, q, p)[1]
    close(slope[:, 1:], torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64))
    largest = torch.tensor([[2.0, 1e200, -1e200], [2.0, 4.0, 0.0]], dtype=torch.float64)
    close(gradients(expected, largest, p)[1], 0.5 * largest)
    for zero in (0.0, torch.tensor([0.0, 0.5], dtype=torch.float64)):
        unread = lambda q, p, d=zero: expected_target(reward, q, p, end, discount=d)  # noqa: E731
        close(unread(q + torch.tensor([[INF], [0.0]]), p)[0], 1.0)
        for slope in gradients(unread, torch.tensor([[2.0, INF, 1.0], [1.0, 1.0, 1.0]]).double(), p.clamp(min=0.1)):
            close(slope[0], torch.zeros(3, dtype=torch.float64))


# The best candidate under several critics.


@given(data=st.data())
def test_the_order_of_maximum_and_minimum(data: st.DataObject) -> None:
    """Min then max is never above max then min; with one critic, or one candidate, they are the same."""
    q = data.draw(
        tensors((data.draw(st.integers(1, 3)), *data.draw(batches(0, 2, 1, 3)), data.draw(st.integers(1, 4))))
    )
    loose, tight = candidate_max_value(q), candidate_max_value(q, order="min_then_max")
    not_above(tight, loose)
    not_above(q.amin(0).amin(-1), tight)
    close(loose, ORACLES["candidate_max_value"](q.numpy(), order="max_then_min"))
    close(tight, ORACLES["candidate_max_value"](q.numpy(), order="min_then_max"))
    close(candidate_max_value(q[:1]), q[0].amax(-1))
    close(candidate_max_value(q[:1], order="min_then_max"), q[0].amax(-1))
    close(candidate_max_value(q[..., :1]), candidate_max_value(q[..., :1], order="min_then_max"))


@pytest.mark.parametrize("order", ["max_then_min", "min_then_max"])
def test_a_candidate_that_does_not_exist_is_not_the_best(order: str) -> None:
    """Minus infinity is passed over; a sample without candidates has the value 0 and no gradient."""
    q = torch.tensor([[[1.0, -torch.inf], [-torch.inf, -torch.inf]], [[2.0, -torch.inf], [-torch.inf, -torch.inf]]])
    q.requires_grad_()
    value = candidate_max_value(q, order=order)
    close(value, torch.tensor([1.0, 0.0]))
    (slope,) = torch.autograd.grad(value.sum(), q)
    close(slope, torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]))
