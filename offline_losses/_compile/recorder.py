"""What an update does while it runs as it is: which optimizers it has, and what it differentiates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from inspect import signature
from threading import RLock, get_ident
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

_recording = RLock()


class Recorder:
    """Notes what steps or clears gradients meanwhile, in this thread, and whether a gradient is made differentiable."""

    def __init__(self) -> None:
        self.optimizers: dict[int, Optimizer] = {}
        self.second_order = False
        self.thread = get_ident()

    def note(self, optimizer: Optimizer) -> None:
        """Of an optimizer that steps or clears gradients."""
        if get_ident() == self.thread:
            self.optimizers[id(optimizer)] = optimizer


@contextmanager
def recording() -> Iterator[Recorder]:
    """Record an update that runs as it is; other threads wait."""
    with _recording:
        recorder, zero_grad = Recorder(), Optimizer.zero_grad
        grad, backward = torch.autograd.grad, torch.autograd.backward

        def clearing(self: Optimizer, set_to_none: bool = True) -> None:
            recorder.note(self)
            zero_grad(self, set_to_none)

        def differentiating(function: Callable[..., Any]) -> Callable[..., Any]:
            form = signature(function)

            def noting(*args: Any, **kwargs: Any) -> Any:  # `Tensor.backward` passes it by position
                with suppress(TypeError):  # which the function itself raises, in its own words
                    again = form.bind(*args, **kwargs).arguments.get("create_graph")
                    recorder.second_order = recorder.second_order or bool(again)
                return function(*args, **kwargs)

            return noting

        def stepping(optimizer: Optimizer, *_: Any) -> None:
            recorder.note(optimizer)

        hook = register_optimizer_step_pre_hook(stepping)
        Optimizer.zero_grad = clearing  # type: ignore[method-assign]
        torch.autograd.grad, torch.autograd.backward = differentiating(grad), differentiating(backward)
        try:
            yield recorder
        finally:
            Optimizer.zero_grad = zero_grad  # type: ignore[method-assign]
            torch.autograd.grad, torch.autograd.backward = grad, backward
            hook.remove()
