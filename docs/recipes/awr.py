"""Advantage-weighted regression: imitate, but each action by how much better it went than the state promised.

Peng, Kumar, Zhang and Levine, arXiv:1910.00177, in its offline form: the value of the behavior policy is regressed to
the data's own (Monte-Carlo) returns, and the advantage is what a return has above it. No action is valued that the data
does not hold; the price is noisy returns, and improvement by one step only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from common import Report, Result, arguments, minimize, train
from networks import Value, imitation_policy
from runs import knob, side_by_side
from task import load_task
from tensordict import TensorDict
from torch import Tensor
from torch.optim import Adam

from offline_losses import awr_weights, discounted_return, nll_loss, squared_loss

REFRESH = 100  # updates after which the returns are computed anew


def main(argv: Sequence[str] | None = None, report: Report | None = None) -> list[Result]:
    parser = arguments(__doc__)
    knob(parser, "--temperature", 1.0, "divides the advantage; units of scaled return")
    knob(parser, "--max-weight", 20.0, "of an action")
    options = side_by_side(parser.parse_args(argv))
    task = load_task(options)
    data, runs = task.data, len(options.runs)
    data["row"] = torch.arange(len(data), device=data.device)
    returns = torch.empty(runs, len(data), device=data.device)  # of each run, by its own value

    value = task.build(Value, task.observation_size, options.hidden)
    policy = task.build(imitation_policy, task, options.hidden)
    optimizer = Adam([*value.parameters(), *policy.parameters()], options.lr, fused=True)

    @torch.no_grad()
    def write_returns() -> None:
        """The return that followed each step, for all episodes in one call over the flat data.

        An episode that was truncated went on unseen: the value of its last state stands for the rest.
        """
        reward, done, terminated = (data["next", key] for key in ("reward", "done", "terminated"))
        next_value, cut = torch.zeros_like(returns), done & ~terminated
        next_value[:, cut] = value(data["next", "observation"][cut].expand(runs, -1, -1))
        reward, done, terminated = (column.expand(runs, -1) for column in (reward, done, terminated))
        returns[:] = discounted_return(
            reward, done, discount=options.discount, next_value=next_value, terminated=terminated
        )

    def prepare(step: int) -> None:
        if step % REFRESH == 1:
            write_returns()

    def update(batch: TensorDict) -> dict[str, Tensor]:
        observation, action = batch["observation"], batch["action"]

        # 1. The value of the behavior policy.
        v, returned = value(observation), returns.gather(1, batch["row"])
        value_loss = squared_loss(v, returned, reduction="none").mean(-1)

        # 2. The policy: imitation with weights exp(advantage / temperature), which come back detached.
        weight = awr_weights(returned - v, temperature=options.temperature, max_weight=options.max_weight)
        policy_loss = nll_loss(policy.log_prob(observation, action), weight=weight, reduction="none").mean(-1)

        minimize(optimizer, value_loss + policy_loss)  # no parameter is in both terms: one step for the two
        return {"value_loss": value_loss, "policy_loss": policy_loss, "weight": weight.mean(-1)}

    return train("awr", task, options, update, policy=policy, prepare=prepare, report=report)


if __name__ == "__main__":
    main()
