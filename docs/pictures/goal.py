"""One episode of thirty steps, and a line of states with a goal on it."""

from __future__ import annotations

import torch

import offline_losses as ol
from pictures import BLUE, ORANGE, SOFT, Axes


def hindsight_goals(axes: Axes) -> str:
    u = (torch.arange(30_000) + 0.5) / 30_000
    index, end = torch.zeros(30_000, dtype=torch.long), torch.full((30_000,), 30)
    uniform = torch.stack([torch.zeros(30_000), u], -1)
    for future in ("geometric", "truncated_geometric", "uniform"):
        goal = ol.hindsight_goals(
            index, end, index, uniform, current_share=0.0, future_share=1.0, future=future, discount=0.95
        )
        share = goal.bincount(minlength=31)[1:] / len(goal)
        axes.plot(range(1, 31), share, label=future.replace("_", " "))
    axes.set(xlabel="steps ahead, of 30 left", ylabel="chance", ylim=(0, 0.25))
    axes.legend(loc="upper left")
    return "what lies beyond the end falls on the last row, or is shared out"


def goal_reward(axes: Axes) -> str:
    distance = torch.linspace(0, 2, 201)
    for kind in ("step_cost", "success"):
        axes.plot(distance, ol.goal_reward(distance, threshold=0.5, kind=kind).reward, label=kind)
    axes.set(xlabel="distance to the goal", ylabel="reward", ylim=(-1.2, 1.8), yticks=(-1, 0, 1), xticks=(0, 0.5, 1, 2))
    axes.legend(ncols=2, loc="upper center")
    return "reached within the threshold, and over"


def hierarchical_advantages(axes: Axes) -> str:
    torch.manual_seed(0)
    state, goal, steps = torch.zeros(200), torch.full((200,), 60.0), torch.linspace(1, 40, 200)

    def value(start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        return -(1 - 0.98 ** (start - end).abs()) / 0.02 + 1.5 * torch.randn(200)

    high, _ = ol.hierarchical_advantages(value(state, goal), value(steps, goal), state, state)
    one_step = value(torch.ones(200), goal) - value(state, goal)
    axes.plot(steps, high, ".", color=BLUE, markersize=3, label="subgoal")
    axes.plot(steps, one_step, ".", color=ORANGE, markersize=3, label="one step")
    axes.axhline(0, color=SOFT, linewidth=0.7)
    axes.set(xlabel="steps to the subgoal", ylabel="advantage")
    axes.legend(loc="upper left")
    return "of a noisy value only the far subgoal's is told apart from 0"
