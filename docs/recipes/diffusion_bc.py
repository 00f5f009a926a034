"""Diffusion policy: imitate the data by taking noise out of actions; with --fraction, only the best episodes.

Chi et al., arXiv:2303.04137, with a multilayer perceptron. A normal distribution that imitates two controllers takes
the mean of their actions, which neither would; a denoiser draws now the one and now the other. The reward does no more
than choose the episodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from common import Report, Result, arguments, minimize, train
from networks import ActionField, SamplingPolicy
from task import load_task
from tensordict import TensorDict
from torch import Tensor
from torch.optim import Adam

from offline_losses import diffusion_loss, diffusion_point, diffusion_prediction, return_filter
from offline_losses.adapters.tensordict import on_tensordict


def main(argv: Sequence[str] | None = None, report: Report | None = None) -> Result:
    parser = arguments(__doc__)
    parser.add_argument("--fraction", type=float, default=1.0, help="share of the episodes to imitate, the best first")
    parser.add_argument("--denoising-steps", type=int, default=15)
    parser.add_argument("--prediction-type", choices=("epsilon", "x0", "v"), default="x0")
    options = parser.parse_args(argv)
    task = load_task(options, discrete_only=False)

    keep = on_tensordict(return_filter)(task.data, fraction=options.fraction)
    task.data = task.data[keep]

    # The share of the action in each step's point: a quarter of a cosine, from nearly 1 to nearly 0.
    steps = options.denoising_steps
    angle = torch.linspace(0, torch.pi / 2, steps + 2, device=options.device)[1:-1]
    alpha_bar = angle.cos().square()
    denoiser = ActionField(task.observation_size, task.action_size, options.hidden).to(options.device)
    optimizer = Adam(denoiser.parameters(), options.lr, fused=True)

    def update(batch: TensorDict) -> dict[str, Tensor]:
        action, noise = batch["action"], torch.randn_like(batch["action"])
        k = torch.randint(steps, action.shape[:-1], device=action.device)
        said = denoiser(batch["observation"], diffusion_point(noise, action, alpha_bar[k]), k / steps)
        loss = diffusion_loss(said, noise, action, alpha_bar[k], prediction_type=options.prediction_type)
        minimize(optimizer, loss)
        return {"policy_loss": loss}

    @torch.no_grad()
    def denoise(observation: Tensor, point: Tensor) -> Tensor:
        """From the noise to the action, without new noise on the way (DDIM)."""
        rows = point[..., 0]
        for k in reversed(range(steps)):
            said = denoiser(observation, point, torch.full_like(rows, k / steps))
            here, before = (share.expand_as(rows) for share in (alpha_bar[k], alpha_bar[k - 1]))
            x0 = diffusion_prediction(said, point, here, given=options.prediction_type).clamp(-1, 1)
            if k:
                epsilon = diffusion_prediction(x0, point, here, given="x0", wanted="epsilon")
                point = diffusion_point(epsilon, x0, before)
        return x0

    name = "diffusion bc" if options.fraction == 1 else "filtered diffusion bc"
    deployed = SamplingPolicy(denoise, task.action_size, options.device)
    return train(name, task, options, update, policy=deployed, report=report)


if __name__ == "__main__":
    main()
