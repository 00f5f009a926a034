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
from task import load_task
from tensordict import TensorDict
from torch import Tensor
from torch.optim import Adam

from offline_losses import awr_weights, discounted_return, nll_loss, squared_loss

REFRESH = 100  # updates after which the returns are computed anew


def main(argv: Sequence[str] | None = None, report: Report | None = None) -> Result:
    parser = arguments(__doc__)
    parser.add_argument("--temperature", type=float, default=1.0, help="divides the advantage; units of scaled return")
    parser.add_argument("--max-weight", type=float, default=20.0)
    options = parser.parse_args(argv)
    task = load_task(options)
    data = task.data

    value = Value(task.observation_size, options.hidden).to(options.device)
    policy = imitation_policy(task, options.hidden)
    optimizer = Adam([*value.parameters(), *policy.parameters()], options.lr, fused=True)

    @torch.no_grad()
    def write_returns() -> None:
        """The return that followed each step, for all episodes in one call over the flat data.

        An episode that was truncated went on unseen: the value of its last state stands for the rest.
        """
        reward, done, terminated = (data["next", key] for key in ("reward", "done", "terminated"))
        next_value, cut = torch.zeros_like(reward), done & ~terminated
        next_value[cut] = value(data["next", "observation"][cut])
        data["return"] = discounted_return(
            reward, done, discount=options.discount, next_value=next_value, terminated=terminated
        )

    def prepare(step: int) -> None:
        if step % REFRESH == 1:
            write_returns()

    def update(batch: TensorDict) -> dict[str, Tensor]:
        observation, action = batch["observation"], batch["action"]

        # 1. The value of the behavior policy.
        v = value(observation)
        value_loss = squared_loss(v, batch["return"])

        # 2. The policy: imitation with weights exp(advantage / temperature), which come back detached.
        weight = awr_weights(batch["return"] - v, temperature=options.temperature, max_weight=options.max_weight)
        policy_loss = nll_loss(policy.log_prob(observation, action), weight=weight)

        minimize(optimizer, value_loss + policy_loss)  # no parameter is in both terms: one step for the two
        return {"value_loss": value_loss, "policy_loss": policy_loss, "weight": weight.mean()}

    return train("awr", task, options, update, policy=policy, prepare=prepare, report=report)


if __name__ == "__main__":
    main()
