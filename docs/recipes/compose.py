"""Composed: an algorithm of parts that nobody has published together. Exchange any of them; each is one line.

HL-Gauss critics, the sparse value of SQL, and a flow that acts by the best of its draws, where the critics agree.
"""

from copy import deepcopy

import torch
from common import Report, Result, arguments, minimize, train
from hl_gauss import support_of_returns
from networks import CategoricalCritics, FlowPolicy, Value
from runs import side_by_side
from task import load_task
from tensordict import TensorDict

import offline_losses as ol


class BestOfDraws(FlowPolicy):
    def __init__(self, observation_size: int, action_size: int, hidden: int, draws: int) -> None:
        super().__init__(observation_size, action_size, hidden, draws)
        self.critics = CategoricalCritics(observation_size, action_size, hidden, 51)
        self.register_buffer("support", torch.zeros(51))

    def q(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return ol.categorical_value(self.critics(observation, action), self.support)

    def choose(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return ol.best_of_n(ol.ensemble_lower_bound(self.q(observation, action)), action)


def main(argv: list[str] | None = None, report: Report | None = None) -> list[Result]:
    options = side_by_side(arguments(__doc__).parse_args(argv))
    task, discount = load_task(options, discrete_only=False), options.discount
    value = task.build(Value, task.observation_size, options.hidden)
    policy = task.build(BestOfDraws, task.observation_size, task.action_size, options.hidden, 16)
    policy.support.copy_(support_of_returns(task, discount, 51))
    slow = deepcopy(policy).requires_grad_(False)
    optimizer = torch.optim.Adam([*value.parameters(), *policy.parameters()], options.lr, fused=True)

    def update(batch: TensorDict) -> dict[str, torch.Tensor]:
        observation, action, noise, time, after = (batch[x] for x in ("observation", "action", "noise", "time", "next"))
        q, v = ol.ensemble_lower_bound(slow.q(observation, action)), value(observation)
        value_loss = 0.01 * ol.sparse_value_loss(v, q, temperature=0.1, reduction="none")
        target = ol.bellman_target(after["reward"], value(after["observation"]), after["terminated"], discount=discount)
        bins = ol.hl_gauss(target, policy.support)
        critic_loss = ol.categorical_loss(policy.critics(observation, action), bins, reduction="none").mean(0)
        field = policy.velocity(observation, ol.flow_point(noise, action, time), time)
        weight = ol.sparse_weights(q - v, temperature=0.1).clamp(max=100)
        flow_loss = ol.flow_matching_loss(field, noise, action, weight=weight, reduction="none")
        minimize(optimizer, (value_loss + critic_loss + flow_loss).mean(-1))
        ol.polyak_update_(slow.critics, policy.critics, polyak=0.02)
        return {"value_loss": value_loss.mean(-1), "critic_loss": critic_loss.mean(-1), "flow_loss": flow_loss.mean(-1)}

    noise = {"normal": {"noise": (task.action_size,)}, "uniform": {"time": ()}}
    return train("composed", task, options, update, policy=policy, critics=policy.q, **noise, report=report)


if __name__ == "__main__":
    main()
