"""The laws of goals: which rows are drawn and how often, what a reached goal is worth, what two advantages tell."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import close, gradients
from hypothesis import given
from hypothesis import strategies as st
from oracles import ORACLES
from strategies import batches, reals, tensors
from torch import Tensor

from offline_losses import bellman_target, goal_reward, hierarchical_advantages, hindsight_goals

FUTURES = ["geometric", "truncated_geometric", "uniform"]


def drawn(count: int, left: int, **options: object) -> Tensor:
    """How often each offset 0 ... left is chosen, over an even grid of u, with nothing but futures."""
    u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    index = torch.full((count,), 100)
    uniform = torch.stack([torch.zeros(count, dtype=torch.float64), u], -1)
    goal = hindsight_goals(index, index + left, index * 0, uniform, current_share=0.0, future_share=1.0, **options)
    return (goal - index).bincount(minlength=left + 1) / count


@pytest.mark.parametrize("future", FUTURES)
@given(data=st.data())
def test_goals_follow_the_papers(future: str, data: st.DataObject) -> None:
    """Each sample has the goal of its own numbers, whatever the others are."""
    shape = data.draw(batches(1, 2))
    index = torch.randint(0, 90, shape)
    end = torch.minimum(index + torch.randint(0, 9, shape), torch.tensor(99))
    uniform = data.draw(tensors((*shape, 2), 0.0, 0.999))
    arguments = index, end, torch.randint(0, 100, shape), uniform
    options = {"future": future, "discount": data.draw(reals(0.05, 0.95)), "current_share": 0.3, "future_share": 0.5}
    expected = ORACLES["hindsight_goals"](*(x.numpy() for x in arguments), **options)
    assert hindsight_goals(*arguments, **options).equal(torch.from_numpy(expected))


@given(data=st.data())
def test_goals_lie_in_the_episode_or_are_the_random_ones(data: st.DataObject) -> None:
    """Whatever is drawn, 1 included: never before the state, never beyond the end."""
    index = torch.arange(8)
    end = index + torch.tensor(data.draw(st.lists(st.integers(0, 2**20), min_size=8, max_size=8)))
    uniform = data.draw(tensors((8, 2), 0.0, 1.0))
    uniform[:2, 1] = 1.0
    options = {"future": data.draw(st.sampled_from(FUTURES)), "discount": data.draw(st.sampled_from([0.0, 0.5, 0.999]))}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        goal = hindsight_goals(index, end, index + 10**7, uniform.to(dtype), **options)
        assert ((goal >= index) & ((goal <= end) | (goal == index + 10**7))).all()
        last = hindsight_goals(index, index, index + 10**7, uniform.to(dtype), **options)
        assert ((last == index) | (last == index + 10**7)).all()


@pytest.mark.parametrize("left", [1, 3, 30])
def test_future_goals_have_the_chances_that_their_name_says(left: int) -> None:
    """Geometric with the rest on the last row; geometric among the rows left; the same for all. Never the state."""
    k = torch.arange(1, left + 1, dtype=torch.float64)
    geometric = 0.1 * 0.9 ** (k - 1)
    clipped = torch.cat([geometric[:-1], 1 - geometric[:-1].sum(0, keepdim=True)])
    chances = {"geometric": clipped, "truncated_geometric": geometric / geometric.sum(), "uniform": 0 * k + 1 / left}
    for future, expected in chances.items():
        found = drawn(100_000, left, future=future, discount=0.9)
        assert found[0] == 0
        close(found[1:], expected.float(), 3e-5)


def test_geometric_goals_are_so_many_steps_ahead_on_average() -> None:
    """1 / (1 - discount), the sentence of the docstring."""
    chance = drawn(1_000_000, 5000, discount=0.98)
    assert abs(float(chance @ torch.arange(5001.0)) - 50) < 0.01


def test_shares_are_those_of_the_mixture() -> None:
    """By the first number alone: current below the first share, future up to the sum of both, random above."""
    kind = torch.tensor([0.0, 0.19, 0.2, 0.69, 0.7, 0.999])
    index = torch.full((6,), 3)
    uniform = torch.stack([kind, torch.zeros(6)], -1)
    goal = hindsight_goals(index, index + 5, index + 40, uniform, current_share=0.2, future_share=0.5)
    assert goal.tolist() == [3, 3, 4, 4, 43, 43]
    goal = hindsight_goals(index, index + 5, index + 40, uniform, current_share=0.0, future_share=0.0)
    assert goal.tolist() == [43] * 6
    for current, future in ((0.1, 0.9), (0.5, 0.5 + 2**-52), (torch.tensor(0.9), 0.5)):  # rounded, or not looked at
        hindsight_goals(index, index, index, uniform, current_share=current, future_share=future)


def test_the_ends_of_the_docstring_are_those_of_the_episodes() -> None:
    """The one line that finds the last row of each episode."""
    done = torch.tensor([False, True, True, False, False, True])
    ends = done.nonzero().squeeze(-1)
    assert ends[torch.searchsorted(ends, torch.arange(len(done)))].tolist() == [1, 1, 2, 5, 5, 5]


def test_shares_that_exceed_one_are_refused() -> None:
    """By name, with what is left."""
    index = torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"future_share: expected at most 0.4 beside a current_share of 0.6, got 0.5"):
        hindsight_goals(index, index, index, torch.zeros(2, 2), current_share=0.6, future_share=0.5)
    with pytest.raises(ValueError, match=r"uniform: expected shape \[2, 2\] \(that of two numbers for each row\)"):
        hindsight_goals(index, index, index, torch.zeros(2))


@given(distance=tensors((6,), 0.0, 4.0), threshold=reals(0.0, 4.0))
def test_goal_rewards_differ_by_one_and_end_where_the_goal_is(distance: Tensor, threshold: float) -> None:
    """The two kinds have the same ends, and rewards that differ by one."""
    cost, success = (goal_reward(distance, threshold=threshold, kind=kind) for kind in ("step_cost", "success"))
    close(success.reward - cost.reward, 1.0)
    assert cost.terminated.equal(success.terminated)
    assert cost.terminated.equal(distance <= threshold)
    close(success.reward, cost.terminated.double())


@pytest.mark.parametrize(("kind", "of"), [("step_cost", lambda k: -(1 - 0.9**k) / 0.1), ("success", lambda k: 0.9**k)])
def test_goal_rewards_give_the_values_of_the_docstring(kind: str, of: object) -> None:
    """On a line of states with the goal at its end, by the Bellman equation; one step before it the value is known."""
    distance = torch.arange(7, dtype=torch.float64)
    reward, terminated = goal_reward(distance, kind=kind)
    value = torch.zeros(7, dtype=torch.float64)
    for _ in range(10):
        value = bellman_target(reward, torch.cat([value[:1], value[:-1]]), terminated, discount=0.9)
    close(value, of(distance))


def test_a_distance_that_is_not_a_number_is_no_goal() -> None:
    """NaN is not reached; nor is infinity."""
    reward, terminated = goal_reward(torch.tensor([math.nan, math.inf, 0.0]))
    assert terminated.tolist() == [False, False, True]
    assert reward.tolist() == [-1, -1, 0]


@given(data=st.data())
def test_hierarchical_advantages_follow_the_paper(data: st.DataObject) -> None:
    """Each is later less earlier; a constant moves neither; gradients are plus and minus one."""
    shape = data.draw(batches(0, 2))
    values = [data.draw(tensors(shape)) for _ in range(4)]
    high, low = hierarchical_advantages(*values)
    for found, expected in zip((high, low), ORACLES["hierarchical_advantages"](*values), strict=True):
        close(found, expected)
    constant = data.draw(reals())
    shifted = hierarchical_advantages(*(x + constant for x in values))
    close(shifted.high, high)
    close(shifted.low, low)
    slopes = gradients(lambda *x: sum(hierarchical_advantages(*x)), *values)
    for slope, sign in zip(slopes, (-1.0, 1.0, -1.0, 1.0), strict=True):
        close(slope, sign)


def test_subgoals_on_the_way_have_the_largest_advantage() -> None:
    """On a line: the subgoal in the goal's direction, the farther the better; the step towards it, not the one back."""

    def v(state: Tensor, goal: Tensor) -> Tensor:
        return -(state - goal).abs()

    s, g = torch.zeros(5), torch.full((5,), 10.0)
    w = torch.tensor([-3.0, 0.0, 3.0, 6.0, 9.0])
    high = hierarchical_advantages(v(s, g), v(w, g), v(s, w), v(s + 1, w)).high
    assert (high.diff() > 0).all()
    low = [hierarchical_advantages(v(s, g), v(w, g), v(s, w), v(s + step, w)).low for step in (-1, 1)]
    assert torch.stack(low).argmax(0).tolist() == [0, 0, 1, 1, 1]


def test_what_is_meant_where_nothing_is_said() -> None:
    """OGBench's mixture for values, geometric at a discount of 0.99; a goal is reached at no distance."""
    index, uniform = torch.arange(64), torch.rand(64, 2, generator=torch.Generator().manual_seed(0))
    arguments = index, index + 500, index + 1000, uniform
    said = {"current_share": 0.2, "future_share": 0.5, "future": "geometric", "discount": 0.99}
    assert hindsight_goals(*arguments).equal(hindsight_goals(*arguments, **said))
    assert goal_reward(torch.tensor([0.0, 0.5])).terminated.tolist() == [True, False]


def test_a_tie_in_half_precision_is_decided_by_its_number() -> None:
    """The threshold is not rounded to what the distance can hold, compiled or not."""
    distance = torch.tensor([0.1, 0.1]).bfloat16()  # 0.10009765625
    assert not goal_reward(distance, threshold=0.1).terminated.any()
    assert goal_reward(distance, threshold=0.10009765625).terminated.all()
