"""Behavior cloning: imitate the data's actions; with --fraction, only those of the best episodes.

The baseline of offline RL that cannot over-estimate anything, since it estimates nothing. Filtered cloning uses the
reward once, before training: it drops the episodes with a low return, and is hard to beat where a few are good.
"""

from __future__ import annotations

from collections.abc import Sequence

from common import Report, Result, arguments, minimize, train
from flags import number
from networks import imitation_policy
from runs import side_by_side
from task import load_task
from tensordict import TensorDict
from torch import Tensor
from torch.optim import Adam

from offline_losses import nll_loss, return_filter
from offline_losses.adapters.tensordict import on_tensordict


def main(argv: Sequence[str] | None = None, report: Report | None = None) -> list[Result]:
    parser = arguments(__doc__)
    parser.add_argument(
        "--fraction", type=number("(]", 1), default=1.0, help="share of the episodes to imitate, the best first"
    )
    options = side_by_side(parser.parse_args(argv))
    task = load_task(options)

    # Dataset time: one call over the flat data marks the steps of the best episodes.
    keep = on_tensordict(return_filter)(task.data, fraction=options.fraction)
    task.data = task.data[keep]

    policy = task.build(imitation_policy, task, options.hidden)
    optimizer = Adam(policy.parameters(), options.lr, fused=True)

    def update(batch: TensorDict) -> dict[str, Tensor]:
        log_prob = policy.log_prob(batch["observation"], batch["action"])
        loss = nll_loss(log_prob, reduction="none").mean(-1)
        minimize(optimizer, loss)
        return {"policy_loss": loss}

    return train("bc" if options.fraction == 1 else "filtered bc", task, options, update, policy=policy, report=report)


if __name__ == "__main__":
    main()
