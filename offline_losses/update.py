"""One compiled step: losses, backward, optimizers and target networks as a single piece of generated code."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from offline_losses._compile.step import Step

P = ParamSpec("P")
R = TypeVar("R")


def compile_update(update: Callable[P, R], *, keep_gradients: bool = False) -> Callable[P, R]:
    r"""Turn an update (losses, backward, optimizer steps, polyak) into a compiled one that is called the same way.

    The first call runs as it is. The second is traced, backward pass and optimizers included, and compiled into one
    graph (ten to fifty seconds, a few when the compiler's cache on disk knows it). PyTorch guards whatever the update
    reads: numbers, flags, networks, hooks, shapes. Where something has changed, the next call is compiled anew for it,
    and the earlier code stays for when it changes back. Counters, lists and other objects that the update changes are
    changed once in every call, and random numbers are those of the update itself.

    What cannot be one graph (a value that is looked at, a batch drawn with NumPy) is compiled in parts, and what
    changes with every call runs as it is. One warning says so, with the line of your code and what to do about it.

    Inside of a compiled update a float among the arguments is a 0-d tensor, which every hyper-parameter accepts, and a
    learning rate is a tensor of one element; outside and in what is returned both are numbers as before. What an
    optimizer holds, and so a checkpoint, is the same as without compilation.

    Args:
        update: any function or method; what it returns may be tensors, numbers and containers of them, or None.
        keep_gradients: keep every `parameter.grad` after a call. Otherwise those that the update clears before it makes
            new ones, and steps on, are None after it; gradients that it adds to, or does not step on, are always kept.

    Returns:
        A function with the same arguments. Tensors in its result are detached and stay as they are.

    Raises:
        RuntimeError: an update that adds to gradients which one of its earlier calls had cleared first and stepped on,
            without `keep_gradients`.

    Examples:
        >>> import torch
        >>> weight = torch.zeros(2, requires_grad=True)
        >>> optimizer = torch.optim.SGD([weight], lr=0.1)
        >>> def update(target):
        ...     loss = (target - weight).square().sum()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        ...     return {"loss": loss}
        >>> step = compile_update(update)
        >>> [round(float(step(torch.ones(2))["loss"]), 4) for _ in range(4)]
        [2.0, 1.28, 0.8192, 0.5243]
    """
    step = Step(update, keep_gradients)

    @wraps(update)
    def compiled(*args: P.args, **kwargs: P.kwargs) -> R:
        result: R = step(*args, **kwargs)
        return result

    return compiled
