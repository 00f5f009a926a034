"""Composed: an algorithm of parts that nobody has published together. Exchange any of them; each is one line.

The critics are classifiers (HL-Gauss), the value is the sparse in-sample maximum (SQL), the policy is a flow that
imitates by the sparse weights, and it acts by the best of many draws (as IDQL does), as a pessimist who trusts the
critics where they agree (as the relatives of EDAC do).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from common import Report, Result, arguments, minimize, train
from hl_gauss import support_of_returns
from networks import ActionField, CategoricalCritics, SamplingPolicy, Value
from runs import side_by_side
from task import load_task
from tensordict import TensorDict
from torch import Tensor

import offline_losses as ol

BINS = 51  # of the return


class BestOfDraws(SamplingPolicy):
    """The best, by its critics, of several actions that a flow carries noise to."""

    def __init__(self, observation_size: int, action_size: int, hidden: int, bins: int, draws: int, steps: int) -> None:
        super().__init__(draws * action_size)
        self.critics = CategoricalCritics(observation_size, action_size, hidden, bins)
        self.velocity = ActionField(observation_size, action_size, hidden)
        self.draws, self.steps = draws, steps
        self.register_buffer("support", torch.zeros(bins))

    def q(self, observation: Tensor, action: Tensor) -> Tensor:
        return ol.categorical_value(self.critics(observation, action), self.support)

    @torch.no_grad()
    def forward(self, observation: Tensor, noise: Tensor) -> Tensor:
        point = noise.unflatten(-1, (self.draws, -1))
        state = observation.unsqueeze(-2).expand(*point.shape[:-1], observation.shape[-1])
        for k in range(self.steps):  # from noise, at time 0, to actions, at time 1
            point = point + self.velocity(state, point, torch.full_like(point[..., 0], k / self.steps)) / self.steps
        return ol.best_of_n(ol.ensemble_lower_bound(self.q(state, point.clamp(-1, 1))), point)


def main(argv: Sequence[str] | None = None, report: Report | None = None) -> list[Result]:
    parser = arguments(__doc__)
    for flag, kind, default in (("draws", int, 16), ("flow-steps", int, 10), ("temperature", float, 0.1)):
        parser.add_argument(f"--{flag}", type=kind, default=default)
    options = side_by_side(parser.parse_args(argv))
    task = load_task(options, discrete_only=False)
    temperature, sizes = options.temperature, (task.observation_size, task.action_size, options.hidden)

    value = task.build(Value, task.observation_size, options.hidden)
    policy = task.build(BestOfDraws, *sizes, BINS, options.draws, options.flow_steps)
    policy.support.copy_(support_of_returns(task, options.discount, BINS))
    critics, support, slow_critics = policy.critics, policy.support, deepcopy(policy.critics).requires_grad_(False)
    optimizer = torch.optim.Adam([*value.parameters(), *policy.parameters()], options.lr, fused=True)

    def update(batch: TensorDict) -> dict[str, Tensor]:
        observation, action, following = batch["observation"], batch["action"], batch["next"]
        q = ol.ensemble_lower_bound(ol.categorical_value(slow_critics(observation, action), support))
        v, next_v = value(observation), value(following["observation"]).detach()
        value_loss = (temperature**2 * ol.sparse_value_loss(v, q, temperature=temperature, reduction="none")).mean(-1)

        target = ol.bellman_target(following["reward"], next_v, following["terminated"], discount=options.discount)
        probability = ol.hl_gauss(target, support)
        critic_loss = ol.categorical_loss(critics(observation, action), probability, reduction="none").mean((0, -1))

        noise, time = batch["noise"], batch["time"]
        field = policy.velocity(observation, ol.flow_point(noise, action, time), time)
        weight = ol.sparse_weights(q - v, temperature=temperature).clamp(max=100)
        flow_loss = ol.flow_matching_loss(field, noise, action, weight=weight, reduction="none").mean(-1)

        minimize(optimizer, value_loss + critic_loss + flow_loss)
        ol.polyak_update_(slow_critics, critics, polyak=0.02)
        return {"value_loss": value_loss, "critic_loss": critic_loss, "flow_loss": flow_loss}

    noise = {"normal": {"noise": (task.action_size,)}, "uniform": {"time": ()}}
    return train("composed", task, options, update, policy=policy, critics=policy.q, **noise, report=report)


if __name__ == "__main__":
    main()
