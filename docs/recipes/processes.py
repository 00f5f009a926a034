"""Several processes under torchrun: each takes batches of its own, and the gradients are means over all of them."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable

import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Losses = Callable[[TensorDict], dict[str, Tensor]]

RANK = int(os.environ.get("RANK", 0))
"""The number of this process, of which the first alone shows and saves anything."""


class _Losses(nn.Module):
    """Losses as a module, since DistributedDataParallel watches the call of one."""

    def __init__(self, losses: Losses, networks: tuple[nn.Module, ...]) -> None:
        super().__init__()
        self.losses, self.networks = losses, nn.ModuleList(networks)

    def forward(self, batch: TensorDict) -> dict[str, Tensor]:
        return self.losses(batch)


def across_processes(losses: Losses, *networks: nn.Module) -> Losses:
    """The same losses of these networks; the gradients of their sum are means over the processes, if there are any."""
    if not dist.is_torchelastic_launched():
        return losses
    dist.init_process_group("gloo")
    atexit.register(dist.destroy_process_group)
    return DistributedDataParallel(_Losses(losses, networks))
