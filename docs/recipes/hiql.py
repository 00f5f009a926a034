"""HIQL: two policies out of one goal-conditioned value, one that proposes the next subgoal and one that walks there.

Park, Ghosh, Eysenbach and Levine, arXiv:2307.11949. The data's own goals and rewards are not used: any state that
followed is a goal that was reached, at a cost of one for each step. Far from the goal one step changes the value by
less than it is wrong; the high policy looks `--subgoal-steps` ahead, and the low one never sees a goal that is far.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from common import Report, Result, arguments, minimize, train
from flags import count, number
from networks import Deployable, Embedding, mlp, of_action
from runs import side_by_side
from task import load_task
from tensordict import TensorDict
from torch import Tensor, nn
from torch.optim import Adam

from offline_losses import (
    awr_weights,
    bellman_target,
    ensemble_mean,
    ensemble_min,
    expectile_loss,
    goal_reward,
    hierarchical_advantages,
    hindsight_goals,
    nll_loss,
    polyak_update_,
)


class Pair(nn.Module):
    """Outputs `[*batch, outputs]` of a cell and a goal `[*batch]`, each given by its number."""

    def __init__(self, cells: int, outputs: int, hidden: int) -> None:
        super().__init__()
        self.of_cell, self.of_goal = Embedding(cells, hidden), Embedding(cells, hidden)
        self.network = mlp(2 * hidden, outputs, hidden)

    def forward(self, cell: Tensor, goal: Tensor) -> Tensor:
        return self.network(torch.cat([self.of_cell(cell), self.of_goal(goal)], -1))


class Hierarchy(Deployable):
    """The subgoal of the high policy is the goal of the low one."""

    def __init__(self, cells: int, actions: int, hidden: int) -> None:
        super().__init__()
        self.high, self.low = Pair(cells, cells, hidden), Pair(cells, actions, hidden)

    def act(self, observation: Tensor) -> Tensor:
        cell, goal = (part.argmax(-1) for part in observation.chunk(2, -1))
        subgoal = self.high(cell, goal).argmax(-1)
        return self.low(cell, torch.where(subgoal == cell, goal, subgoal)).argmax(-1)


def main(argv: Sequence[str] | None = None, report: Report | None = None) -> list[Result]:
    parser = arguments(__doc__)
    parser.set_defaults(dataset="maze/play-v0")
    parser.add_argument("--expectile", type=number("()", 1), default=0.9, help="above 0.5: the optimistic side")
    parser.add_argument("--temperature", type=number("()"), default=0.5, help="divides the advantages; units of steps")
    parser.add_argument("--subgoal-steps", type=count, default=6)
    parser.add_argument("--polyak", type=number("[]", 1), default=0.05)
    options = side_by_side(parser.parse_args(argv))
    if options.discount == 1.0:
        parser.error("argument --discount: expected a number in [0, 1), of which the goals are drawn, got 1")
    if not options.dataset.startswith("maze/"):
        parser.exit(1, f"{options.dataset} has no goals: its observations are not those of a cell and another.\n")
    task = load_task(options, discrete_only=True)
    data, cells = task.data, task.observation_size // 2

    # Dataset time: the cell of each state, and the last row of each episode.
    data["cell"] = data["observation"].chunk(2, -1)[0].argmax(-1)
    data["next_cell"] = data["next", "observation"].chunk(2, -1)[0].argmax(-1)
    data["row"], ends = torch.arange(len(data), device=data.device), data["next", "done"].nonzero().squeeze(-1)
    data["last"] = ends[torch.searchsorted(ends, data["row"])]

    values = task.build(Pair, cells, 2, options.hidden)  # two that share what they know of cells
    policy = task.build(Hierarchy, cells, task.action_size, options.hidden)
    slow_values = deepcopy(values).requires_grad_(False)
    optimizer = Adam([*values.parameters(), *policy.parameters()], options.lr, fused=True)

    def update(batch: TensorDict) -> dict[str, Tensor]:
        row, last, cell, next_cell = batch["row"], batch["last"], batch["cell"], batch["next_cell"]
        uniform, anywhere = batch["uniform"], (len(data) * batch["uniform"][..., 4]).long()

        # 1. V(s, g) of a mixture of goals: minus the number of steps, discounted.
        goal = data["cell"][hindsight_goals(row, last, anywhere, uniform[..., :2], discount=options.discount)]
        reward, reached = goal_reward((cell != goal).float())
        v, next_v = values(cell, goal).movedim(-1, 0), ensemble_min(slow_values(next_cell, goal).movedim(-1, 0))
        target = bellman_target(reward, next_v, reached, discount=options.discount)
        value_loss = expectile_loss(v, target, expectile=options.expectile, reduction="none").mean((0, -1))

        # 2. The state some steps ahead as a subgoal, on the way to a later state or to any.
        shares = {"current_share": 0.0, "future_share": 0.7}
        goal_row = hindsight_goals(row, last, anywhere, uniform[..., 2:4], **shares, future="uniform")
        on_the_way = torch.where((goal_row > row) & (goal_row <= last), goal_row, last)
        ahead = torch.minimum(row + options.subgoal_steps, on_the_way)
        subgoal, goal = data["cell"][ahead], data["cell"][goal_row]

        # 3. Each policy imitates by its own advantage.
        with torch.no_grad():
            pairs = (cell, goal), (subgoal, goal), (cell, subgoal), (next_cell, subgoal)
            advantages = hierarchical_advantages(*(ensemble_mean(values(*pair).movedim(-1, 0)) for pair in pairs))
        high, low = (awr_weights(advantage, temperature=options.temperature) for advantage in advantages)
        to_subgoal, to_action = policy.high(cell, goal).log_softmax(-1), policy.low(cell, subgoal).log_softmax(-1)
        high_loss = nll_loss(of_action(to_subgoal, subgoal), weight=high, reduction="none").mean(-1)
        low_loss = nll_loss(of_action(to_action, batch["action"]), weight=low, reduction="none").mean(-1)

        minimize(optimizer, value_loss + high_loss + low_loss)  # no parameter is in two terms: one step for all
        polyak_update_(slow_values, values, polyak=options.polyak)
        return {"value_loss": value_loss, "high_loss": high_loss, "low_loss": low_loss}

    return train("hiql", task, options, update, policy=policy, uniform={"uniform": (5,)}, report=report)


if __name__ == "__main__":
    main()
