r"""Goals in place of rewards: which state to aim for, when it is reached, and which step or subgoal led towards it.

A goal-conditioned value $V(s, g)$ is learned by the losses of the other rooms, on goals taken from the data itself.
Rows of a dataset are named by their index in flat time, as everywhere.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from offline_losses._core.checks import (
    Knob,
    check_float,
    check_integers,
    check_knob,
    check_option,
    check_shape,
    check_values,
)
from offline_losses._core.errors import refuse
from offline_losses._core.public import public
from offline_losses._core.reduce import promoted, scalar, upcast


class GoalReward(NamedTuple):
    """Reward of a step, and whether the goal is reached, which ends the bootstrap."""

    reward: Tensor
    terminated: Tensor


class HierarchicalAdvantages(NamedTuple):
    """How much nearer a subgoal is to the goal, and how much nearer a step led to the subgoal."""

    high: Tensor
    low: Tensor


@public
def hindsight_goals(
    index: Tensor,
    episode_end: Tensor,
    random_index: Tensor,
    uniform: Tensor,
    *,
    current_share: Knob = 0.2,
    future_share: Knob = 0.5,
    future: Literal["geometric", "truncated_geometric", "uniform"] = "geometric",
    discount: Knob = 0.99,
) -> Tensor:
    r"""Rows of the data to take as goals: the state itself, one that followed it in its episode, or a random one.

    $$g = \begin{cases} i & u_1 < p_\text{current} \\
    \min(i + k,\ e) & u_1 < p_\text{current} + p_\text{future} \\
    j & \text{otherwise} \end{cases}, \qquad
    k = 1 + \left\lfloor \frac{\log(1 - u_2)}{\log \gamma} \right\rfloor$$

    The offset $k \ge 1$ is geometric, $P(k) = (1 - \gamma) \gamma^{k - 1}$. What lies beyond the end $e$ of the episode
    falls on its last row (`"geometric"`), or is shared out among its rows (`"truncated_geometric"`); `"uniform"` gives
    all of them the same chance. On the last row the future is that row. The state behind the last action of an episode
    is a goal only where it is a row of its own; where it stands in the next observations alone, append it to the data.

    Args:
        index: int64 `[*batch]`, rows $i$ of the flat data.
        episode_end: int64 `[*batch]`, the last row $e$ of each one's episode; once for all rows,
            `ends[torch.searchsorted(ends, torch.arange(len(done)))]` with `ends = done.nonzero().squeeze(-1)`, if
            the last row is done.
        random_index: int64 `[*batch]`, rows $j$ drawn from all data, or from those that may be goals.
        uniform: `[*batch, 2]`, $u_1$ and $u_2$ drawn from [0, 1), `torch.rand`.
        current_share: $p_\text{current}$ in [0, 1].
        future_share: $p_\text{future}$ in [0, 1]; the two sum to at most 1, and the rest is random.
        future: how far ahead, one of the three.
        discount: $\gamma$ in [0, 1), of the two geometric ones: $1 / (1 - \gamma)$ steps ahead on average.

    Returns:
        int64 `[*batch]`, rows of the flat data.

    Gradient:
        None.

    Raises:
        ValueError: shapes that differ, a knob out of range, shares that sum to more than 1, an unknown `future`.
        TypeError: rows that are not int64, uniform numbers that are not floating.

    Examples:
        >>> import torch
        >>> index, end, random_index = torch.tensor([3, 3, 3]), torch.tensor([9, 9, 9]), torch.tensor([50, 50, 50])
        >>> uniform = torch.tensor([[0.1, 0.0], [0.5, 0.7], [0.9, 0.0]])
        >>> hindsight_goals(index, end, random_index, uniform, future="uniform")
        tensor([ 3,  8, 50])

    Reference:
        Andrychowicz et al., Hindsight Experience Replay, arXiv:1707.01495, section 4.5 (future, random); Park,
        Frans, Eysenbach and Levine, OGBench, arXiv:2410.20092 (the mixture, geometric). Others weigh the ends of the
        range by half: see [Lineage](../lineage/goal.md#hindsight_goals).
    """
    check_integers("hindsight_goals", "index", getattr(index, "shape", torch.Size()), index=index)
    check_integers("hindsight_goals", "index", index.shape, episode_end=episode_end, random_index=random_index)
    check_float("hindsight_goals", uniform=uniform)
    check_shape("hindsight_goals", "two numbers for each row", torch.Size([*index.shape, 2]), uniform=uniform)
    _check_shares(current_share, future_share, future, discount, index.shape)
    kind, u = upcast(uniform).unbind(-1)
    left = (episode_end - index).to(u.dtype)
    if future == "uniform":
        ahead = 1 + (u * left).floor()
    else:
        q = scalar(discount, u)
        beyond = q**left if future == "truncated_geometric" else torch.zeros_like(u)
        ahead = 1 + (torch.log1p(-u * (1 - beyond)) / q.log()).floor()
    ahead = torch.fmin(ahead, left)  # u = 1 is infinitely far
    followed = torch.minimum(index + ahead.long(), episode_end)
    chosen = torch.where(kind < current_share + future_share, followed, random_index)
    return torch.where(kind < current_share, index, chosen)


@public
def goal_reward(
    distance: Tensor, *, threshold: Knob = 0.0, kind: Literal["step_cost", "success"] = "step_cost"
) -> GoalReward:
    r"""Reward of reaching a goal: −1 a step until it is reached, or 1 when it is, and the end of the bootstrap there.

    $$r = \mathbb 1[d \le \epsilon] - 1 \quad\text{or}\quad r = \mathbb 1[d \le \epsilon], \qquad
    \text{terminated} = \mathbb 1[d \le \epsilon]$$

    With `"step_cost"` the best value is $-(1 - \gamma^k) / (1 - \gamma)$ at $k$ steps from the goal, with `"success"`
    it is $\gamma^k$: the same policy, another scale. Give both results to `bellman_target`: a goal that does not
    terminate would be reached again at each step.

    Args:
        distance: `[*batch]`, from the state to its goal: a norm in the space of goals, or `(index != goal).float()` for
            rows of the data, with `hindsight_goals`.
        threshold: $\epsilon \ge 0$, the largest distance at which the goal counts as reached.
        kind: `"step_cost"`, rewards −1 and 0, or `"success"`, rewards 0 and 1.

    Returns:
        `GoalReward(reward, terminated)`, each `[*batch]`: in the dtype of the distance, and bool.

    Gradient:
        None: a step function.

    Raises:
        ValueError: `threshold` negative, an unknown kind.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> goal_reward(torch.tensor([0.0, 2.0]), threshold=0.5)
        GoalReward(reward=tensor([ 0., -1.]), terminated=tensor([ True, False]))

    Reference:
        Andrychowicz et al., Hindsight Experience Replay, arXiv:1707.01495, section 3.2; Park, Frans, Eysenbach and
        Levine, OGBench, arXiv:2410.20092.
    """
    check_float("goal_reward", distance=distance)
    check_knob("goal_reward", "threshold", threshold, 0.0, bounds="[)", shapes=[distance.shape])
    check_option("goal_reward", "kind", kind, ("step_cost", "success"))
    reached = upcast(distance) <= threshold
    reward = reached.to(distance.dtype)
    return GoalReward(reward - 1 if kind == "step_cost" else reward, reached)


@public
def hierarchical_advantages(
    value: Tensor, subgoal_value: Tensor, value_to_subgoal: Tensor, next_value_to_subgoal: Tensor
) -> HierarchicalAdvantages:
    r"""Two advantages from one value (HIQL): of a subgoal for the goal, and of an action for the subgoal.

    $$A^\text{high} = V(w, g) - V(s, g), \qquad A^\text{low} = V(s', w) - V(s, w)$$

    The subgoal $w$ is the state that lies some steps after $s$ in the data. The high policy imitates it as an action,
    the low policy imitates the action that was taken, both by `awr_weights` of their advantage. Far from the goal the
    noise of $V$ outweighs the effect of one action, but not that of many steps.

    Args:
        value: $V(s, g)$, `[*batch]`.
        subgoal_value: $V(w, g)$.
        value_to_subgoal: $V(s, w)$.
        next_value_to_subgoal: $V(s', w)$.

    Returns:
        `HierarchicalAdvantages(high, low)`, each `[*batch]`, in the common dtype of its two values.

    Gradient:
        All four.

    Raises:
        ValueError: shapes that differ.
        TypeError: not a tensor, integer values.

    Examples:
        >>> import torch
        >>> v = torch.tensor([-9.0])
        >>> hierarchical_advantages(v, v + 4, v + 5, v + 6)
        HierarchicalAdvantages(high=tensor([4.]), low=tensor([1.]))

    Reference:
        Park, Ghosh, Eysenbach and Levine, HIQL: Offline Goal-Conditioned RL with Latent States as Actions,
        arXiv:2307.11949, section 4.2 (the simplified advantages).
    """
    to_goal = {"value": value, "subgoal_value": subgoal_value}
    to_subgoal = {"value_to_subgoal": value_to_subgoal, "next_value_to_subgoal": next_value_to_subgoal}
    check_values("hierarchical_advantages", **to_goal, **to_subgoal)
    high, low = upcast(subgoal_value) - upcast(value), upcast(next_value_to_subgoal) - upcast(value_to_subgoal)
    return HierarchicalAdvantages(
        high.to(promoted(value, subgoal_value)), low.to(promoted(value_to_subgoal, next_value_to_subgoal))
    )


def _check_shares(current_share: Knob, future_share: Knob, future: str, discount: Knob, batch: torch.Size) -> None:
    check_knob("hindsight_goals", "current_share", current_share, 0.0, 1.0, "[]", [batch])
    check_knob("hindsight_goals", "future_share", future_share, 0.0, 1.0, "[]", [batch])
    if not isinstance(current_share, Tensor) and not isinstance(future_share, Tensor):
        both = current_share + future_share
        if both > 1 and not math.isclose(both, 1.0):
            mend = "What they leave of 1 is the share of random goals."
            expected = f"at most {1 - current_share:.6g} beside a current_share of {current_share}"
            refuse(ValueError, "hindsight_goals", "future_share", expected, f"{future_share}", mend)
    check_option("hindsight_goals", "future", future, ("geometric", "truncated_geometric", "uniform"))
    check_knob("hindsight_goals", "discount", discount, 0.0, 1.0, "[)", [batch])
