"""Conservative Q-learning, discrete actions: double DQN with Q pushed down where it only guesses.

Kumar, Zhou, Tucker and Levine, arXiv:2006.04779, CQL(H). To the Bellman error comes the soft maximum of Q over all
actions minus Q of the data's action. With --conservative 0 nothing is left but double DQN, which over-estimates.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from common import Report, Result, arguments, minimize, train
from flags import number
from networks import QNetwork, of_action
from runs import side_by_side
from task import load_task
from tensordict import TensorDict
from torch import Tensor
from torch.optim import Adam

from offline_losses import cql_logsumexp_penalty, double_q_target, polyak_update_, squared_loss


def main(argv: Sequence[str] | None = None, report: Report | None = None) -> list[Result]:
    parser = arguments(__doc__)
    parser.set_defaults(dataset="cartpole/mixed-v0")
    parser.add_argument("--conservative", type=number("[)"), default=0.1, help="weight of the penalty; 0 is double DQN")
    parser.add_argument(
        "--temperature", type=number("()"), default=0.1, help="of the soft maximum; units of scaled return"
    )
    parser.add_argument("--polyak", type=number("[]", 1), default=0.005)
    options = side_by_side(parser.parse_args(argv))
    task = load_task(options, discrete_only=True)

    network = task.build(QNetwork, task.observation_size, task.action_size, options.hidden)
    slow_network = deepcopy(network).requires_grad_(False)
    optimizer = Adam(network.parameters(), options.lr, fused=True)

    def update(batch: TensorDict) -> dict[str, Tensor]:
        observation, action, next_observation = batch["observation"], batch["action"], batch["next", "observation"]

        # 1. Q(s, a) learns the reward and the value of the best next action: one network chooses it, one values it.
        with torch.no_grad():
            target = double_q_target(
                batch["next", "reward"],
                network(next_observation),
                slow_network(next_observation),
                batch["next", "terminated"],
                discount=options.discount,
            )
        q_candidates = network(observation)
        q = of_action(q_candidates, action)
        bellman_loss = squared_loss(q, target, reduction="none").mean(-1)

        # 2. The penalty: down with the soft maximum of Q over all actions, up with Q of the data's action.
        gap = cql_logsumexp_penalty(q_candidates, q, temperature=options.temperature, reduction="none").mean(-1)

        minimize(optimizer, bellman_loss + options.conservative * gap)
        polyak_update_(slow_network, network, polyak=options.polyak)
        return {"critic_loss": bellman_loss, "gap": gap}

    def critics(observation: Tensor, action: Tensor) -> Tensor:
        return of_action(network(observation), action).unsqueeze(0)

    name = "discrete cql" if options.conservative else "dqn"
    return train(name, task, options, update, policy=network, critics=critics, report=report)


if __name__ == "__main__":
    main()
