"""What a compiled step needs of optimizers: learning rates and counts as tensors, and no gradient left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook


class Rate:
    """A learning rate as a tensor that the compiled step reads, whatever is written into the optimizer."""

    def __init__(self, group: dict[str, Any]) -> None:
        self.group = group
        if not isinstance(group["lr"], Tensor):
            group["lr"] = torch.tensor(float(group["lr"]), device=group["params"][0].device)
            group["lr"].was_a_number = True
        self.tensor: Tensor = group["lr"]

    def release(self) -> None:
        """Back to a number, if it was one: not every optimizer takes a tensor."""
        if hasattr(self.group["lr"], "was_a_number"):
            self.group["lr"] = float(self.group["lr"])

    def follow(self) -> None:
        """Take over a number, or another tensor, that was put in its place."""
        rate = self.group["lr"]
        if rate is self.tensor:
            return
        if isinstance(rate, Tensor):
            self.tensor.copy_(rate)
        else:
            self.tensor.fill_(float(rate))  # on a card without waiting for it
        self.group["lr"] = self.tensor


def as_tensors(optimizers: list[Optimizer]) -> list[Rate]:
    """Learning rates as tensors, and step counts where the parameters are: a number on the host is never replayed."""
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].to(parameter.device)
    return [Rate(group) for optimizer in optimizers for group in optimizer.param_groups]


@contextmanager
def stepping() -> Iterator[dict[int, Optimizer]]:
    """The optimizers that step meanwhile, by identity."""
    found: dict[int, Optimizer] = {}

    def note(optimizer: Optimizer, *_: Any) -> None:
        found[id(optimizer)] = optimizer

    hook = register_optimizer_step_pre_hook(note)
    try:
        yield found
    finally:
        hook.remove()


@contextmanager
def for_tracing(optimizers: list[Optimizer]) -> Iterator[None]:
    """Let the optimizers compute with tensors alone, in single operators that the compiler fuses by itself."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    keys = ("capturable", "fused", "foreach")
    before: list[dict[str, Any]] = [{key: group[key] for key in keys if key in group} for group in groups]
    for group, settings_ in zip(groups, before, strict=True):
        group.update({key: key != "fused" for key in settings_})  # the forms that take every number as a tensor
    try:
        yield
    finally:
        for group, settings_ in zip(groups, before, strict=True):
            group.update(settings_)


def parameters(optimizers: list[Optimizer]) -> list[Tensor]:
    """Everything that they move."""
    return [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]


def forget_gradients(optimizers: list[Optimizer], state: list[Tensor]) -> None:
    kept = {id(x) for x in state}
    for parameter in parameters(optimizers):
        if id(parameter.grad) not in kept:
            parameter.grad = None
