"""Conservative Q-learning with quantile critics, discrete actions: the mean of a distribution of returns, pushed down.

Kumar, Zhou, Tucker and Levine, arXiv:2006.04779, on the critics of QR-DQN (Dabney, Rowland, Bellemare and Munos,
arXiv:1710.10044), as in the paper's experiments with discrete actions. Every action has N quantiles of its return; Q is
their mean. The quantiles learn from those of the next state, and the penalty is that of discrete_cql.py on Q.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from common import Report, Result, arguments, minimize, train
from flags import count, number
from networks import QuantileNetwork, of_action
from runs import side_by_side
from task import load_task
from tensordict import TensorDict
from torch import Tensor
from torch.optim import Adam

from offline_losses import bellman_target, cql_logsumexp_penalty, polyak_update_, quantile_huber_loss


def quantiles_of(quantiles: Tensor, action: Tensor) -> Tensor:
    """`[R, B, N]` of `[R, B, A, N]`, those of the actions `[R, B]`."""
    return quantiles.take_along_dim(action[..., None, None], -2).squeeze(-2)


def main(argv: Sequence[str] | None = None, report: Report | None = None) -> list[Result]:
    parser = arguments(__doc__)
    parser.set_defaults(dataset="cartpole/mixed-v0")
    parser.add_argument("--quantiles", type=count, default=32)
    parser.add_argument(
        "--delta", type=number("()"), default=1.0, help="where the square becomes a line; scaled return"
    )
    parser.add_argument(
        "--conservative", type=number("[)"), default=0.1, help="weight of the penalty; 0 is double QR-DQN"
    )
    parser.add_argument(
        "--temperature", type=number("()"), default=0.1, help="of the soft maximum; units of scaled return"
    )
    parser.add_argument("--polyak", type=number("[]", 1), default=0.005)
    options = side_by_side(parser.parse_args(argv))
    task = load_task(options, discrete_only=True)

    sizes = task.observation_size, task.action_size, options.hidden, options.quantiles
    network = task.build(QuantileNetwork, *sizes)
    slow_network = deepcopy(network).requires_grad_(False)
    optimizer = Adam(network.parameters(), options.lr, fused=True)

    def update(batch: TensorDict) -> dict[str, Tensor]:
        observation, action, next_observation = batch["observation"], batch["action"], batch["next", "observation"]

        # 1. Each quantile of the return learns from all quantiles of the best next action, shrunk by the discount and
        #    moved by the reward. The mean over quantiles keeps the penalty's weight the same for any number of them.
        with torch.no_grad():
            next_action = network(next_observation).argmax(-1)
            next_quantiles = quantiles_of(slow_network.quantiles(next_observation), next_action)
            target = bellman_target(
                batch["next", "reward"].unsqueeze(-1).expand_as(next_quantiles),
                next_quantiles,
                batch["next", "terminated"].unsqueeze(-1).expand_as(next_quantiles),
                discount=options.discount,
            )
        quantiles = network.quantiles(observation)  # of all actions
        prediction = quantiles_of(quantiles, action)
        bellman_loss = quantile_huber_loss(prediction, target, delta=options.delta, reduction="none").mean(-1)

        # 2. The penalty: down with the soft maximum of Q over all actions, up with Q of the data's action.
        q = quantiles.mean(-1)
        q_data = of_action(q, action)
        gap = cql_logsumexp_penalty(q, q_data, temperature=options.temperature, reduction="none").mean(-1)

        minimize(optimizer, bellman_loss / options.quantiles + options.conservative * gap)
        polyak_update_(slow_network, network, polyak=options.polyak)
        return {"critic_loss": bellman_loss, "gap": gap}

    def critics(observation: Tensor, action: Tensor) -> Tensor:
        return of_action(network(observation), action).unsqueeze(0)

    name = "qr-cql" if options.conservative else "qr-dqn"
    return train(name, task, options, update, policy=network, critics=critics, report=report)


if __name__ == "__main__":
    main()
