"""Diffusion policy: imitate the data by taking noise out of actions; with --fraction, only the best episodes.

Chi et al., arXiv:2303.04137, with a multilayer perceptron. A normal distribution that imitates two controllers takes
the mean of their actions, which neither would; a denoiser draws now the one and now the other. The reward does no more
than choose the episodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from common import Report, Result, arguments, minimize, train
from flags import count, number
from networks import ActionField, SamplingPolicy
from runs import side_by_side
from task import load_task
from tensordict import TensorDict
from torch import Tensor
from torch.optim import Adam

from offline_losses import diffusion_loss, diffusion_point, diffusion_prediction, return_filter
from offline_losses.adapters.tensordict import on_tensordict


class Denoiser(SamplingPolicy):
    """From noise to an action, without new noise on the way (DDIM)."""

    def __init__(self, observation_size: int, action_size: int, hidden: int, steps: int, prediction_type: str) -> None:
        super().__init__(action_size)
        self.field, self.steps, self.given = ActionField(observation_size, action_size, hidden), steps, prediction_type
        # The share of the action in each step's point: a quarter of a cosine, from nearly 1 to nearly 0.
        self.register_buffer("alpha_bar", torch.linspace(0, torch.pi / 2, steps + 2)[1:-1].cos().square())

    @torch.no_grad()
    def forward(self, observation: Tensor, point: Tensor) -> Tensor:
        rows = point[..., 0]
        for k in reversed(range(self.steps)):
            said = self.field(observation, point, torch.full_like(rows, k / self.steps))
            here, before = (share.expand_as(rows) for share in (self.alpha_bar[k], self.alpha_bar[k - 1]))
            x0 = diffusion_prediction(said, point, here, given=self.given).clamp(-1, 1)
            if k:
                epsilon = diffusion_prediction(x0, point, here, given="x0", wanted="epsilon")
                point = diffusion_point(epsilon, x0, before)
        return x0


def main(argv: Sequence[str] | None = None, report: Report | None = None) -> list[Result]:
    parser = arguments(__doc__)
    parser.add_argument(
        "--fraction", type=number("(]", 1), default=1.0, help="share of the episodes to imitate, the best first"
    )
    parser.add_argument("--denoising-steps", type=count, default=15)
    parser.add_argument("--prediction-type", choices=("epsilon", "x0", "v"), default="x0")
    options = side_by_side(parser.parse_args(argv))
    task = load_task(options, discrete_only=False)

    keep = on_tensordict(return_filter)(task.data, fraction=options.fraction)
    task.data = task.data[keep]

    sizes = task.observation_size, task.action_size, options.hidden
    policy = task.build(Denoiser, *sizes, options.denoising_steps, options.prediction_type)
    optimizer = Adam(policy.parameters(), options.lr, fused=True)

    def update(batch: TensorDict) -> dict[str, Tensor]:
        action, noise, k = batch["action"], batch["noise"], (policy.steps * batch["uniform"]).long()
        alpha_bar = policy.alpha_bar[k]
        said = policy.field(batch["observation"], diffusion_point(noise, action, alpha_bar), k / policy.steps)
        knobs = {"prediction_type": options.prediction_type}
        loss = diffusion_loss(said, noise, action, alpha_bar, **knobs, reduction="none").mean(-1)
        minimize(optimizer, loss)
        return {"policy_loss": loss}

    name = "diffusion bc" if options.fraction == 1 else "filtered diffusion bc"
    noise = {"normal": {"noise": (task.action_size,)}, "uniform": {"uniform": ()}}
    return train(name, task, options, update, policy=policy, **noise, report=report)


if __name__ == "__main__":
    main()
