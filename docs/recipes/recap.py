"""RECAP: a flow that is told whether each action went better than expected, and that it does when it acts.

Physical Intelligence, arXiv:2511.14759, with a state in place of images and a number in place of words. A value says
what was to be expected; an action whose advantage is among the best is good. One flow imitates all of the data under
that condition, bad actions included, and sometimes without it. Acting asks for a good one, and guidance exaggerates.
No action outside of the data is ever valued.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from common import Report, Result, arguments, minimize, train
from flags import count, number, real
from networks import ActionField, SamplingPolicy, Value
from runs import each_run, side_by_side
from task import load_task
from tensordict import TensorDict
from torch import Tensor
from torch.optim import Adam

from offline_losses import (
    advantage_indicator,
    flow_matching_loss,
    flow_point,
    generalized_advantage,
    guided_field,
    squared_loss,
)

REFRESH = 100  # updates between two looks at the whole data


class GuidedFlow(SamplingPolicy):
    """Carries noise, at time 0, to a good action, at time 1."""

    def __init__(self, observation_size: int, action_size: int, hidden: int, guidance: float, steps: int) -> None:
        super().__init__(action_size)
        self.velocity = ActionField(observation_size, action_size, hidden)
        self.guidance, self.steps = guidance, steps

    @torch.no_grad()
    def forward(self, observation: Tensor, point: Tensor) -> Tensor:
        for k in range(self.steps):
            time = torch.full_like(point[..., 0], k / self.steps)
            free, good = (self.velocity(observation, point, time, torch.full_like(time, c)) for c in (0.0, 1.0))
            point = point + guided_field(free, good, guidance_scale=self.guidance) / self.steps
        return point


def main(argv: Sequence[str] | None = None, report: Report | None = None) -> list[Result]:
    parser = arguments(__doc__)
    parser.add_argument(
        "--fraction", type=number("(]", 1), default=0.3, help="share of the actions that are called good"
    )
    parser.add_argument(
        "--lambda", type=number("[]", 1), default=0.95, dest="lambda_", help="1: the returns of the data"
    )
    parser.add_argument("--guidance", type=real, default=1.5, help="1: just the condition; larger exaggerates it")
    parser.add_argument("--dropout", type=number("[]", 1), default=0.1, help="share of samples without the condition")
    parser.add_argument("--flow-steps", type=count, default=10, help="Euler steps from noise to action")
    options = side_by_side(parser.parse_args(argv))
    task = load_task(options, discrete_only=False)
    data, runs = task.data, len(options.runs)
    data["row"] = torch.arange(len(data), device=data.device)
    returns, good = torch.empty(2, runs, len(data), device=data.device)  # of each run, by its own value

    value = task.build(Value, task.observation_size, options.hidden)
    sizes = task.observation_size, task.action_size, options.hidden
    policy = task.build(GuidedFlow, *sizes, options.guidance, options.flow_steps)
    optimizer = Adam([*value.parameters(), *policy.parameters()], options.lr, fused=True)

    @torch.no_grad()
    def judge() -> None:
        """Writes down what followed each step, and 1 where it was among the best beside what was expected, else −1."""
        v, next_v = (value(step["observation"].expand(runs, -1, -1)) for step in (data, data["next"]))
        reward, terminated, done = (data["next", key].expand(runs, -1) for key in ("reward", "terminated", "done"))
        advantage = generalized_advantage(
            reward, v, next_v, terminated, done, discount=options.discount, lambda_=options.lambda_
        )
        returns[:] = v + advantage
        good[:] = torch.where(each_run(advantage_indicator, advantage, fraction=options.fraction), 1.0, -1.0)

    def prepare(step: int) -> None:
        if step % REFRESH == 1:
            judge()

    def update(batch: TensorDict) -> dict[str, Tensor]:
        observation, action = batch["observation"], batch["action"]

        # 1. The value of the data's own policy.
        value_loss = squared_loss(value(observation), returns.gather(1, batch["row"]), reduction="none").mean(-1)

        # 2. The flow imitates every action under its condition, which is left out now and then.
        noise, time = batch["noise"], batch["time"]
        condition = torch.where(batch["dropped"] < options.dropout, 0.0, good.gather(1, batch["row"]))
        field = policy.velocity(observation, flow_point(noise, action, time), time, condition)
        flow_loss = flow_matching_loss(field, noise, action, reduction="none").mean(-1)

        minimize(optimizer, value_loss + flow_loss)  # no parameter is in both terms: one step for the two
        return {"value_loss": value_loss, "flow_loss": flow_loss}

    noise = {"normal": {"noise": (task.action_size,)}, "uniform": {"time": (), "dropped": ()}}
    return train("recap", task, options, update, policy=policy, prepare=prepare, **noise, report=report)


if __name__ == "__main__":
    main()
