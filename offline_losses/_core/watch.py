"""What a function reads from outside its arguments: numbers, and which objects its names stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

_NUMBERS = (bool, int, float, str, type(None))


class Place(NamedTuple):
    """Something read from outside, and what stood there."""

    label: str
    read: Callable[[], Any]
    seen: Any

    @property
    def changed(self) -> bool:
        """Whether another number, or another object, stands there now."""
        now = self.read()
        return now is not self.seen and (type(self.seen) not in _NUMBERS or now != self.seen)


def outside(function: Callable[..., Any]) -> list[Place]:
    """Every number that the function or its helpers reach through closures, globals and one attribute."""
    return list(_function(function, set()))


def settings(optimizers: list[Optimizer]) -> list[Place]:
    """The settings of the optimizers apart from their learning rates, and their state as a whole."""
    return [
        Place(f"{type(optimizer).__name__}'s {key}", partial(held.get, key), value)
        for optimizer in optimizers
        for held in (vars(optimizer), *optimizer.param_groups)
        for key, value in held.items()
        if key not in ("params", "lr") and (type(value) in _NUMBERS or key in ("state", "param_groups", "betas"))
    ]


def _function(function: Any, visited: set[int]) -> Iterator[Place]:
    if isinstance(function, MethodType):
        yield from _attributes("self", function.__self__)
        function = function.__func__
    if not isinstance(function, FunctionType) or id(function) in visited:
        return
    visited.add(id(function))
    code, names = function.__code__, function.__globals__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        yield from _value(name, partial(_contents, cell), visited)
    for name in code.co_names:
        if name in names:
            yield from _value(name, partial(names.get, name), visited)


def _value(name: str, read: Callable[[], Any], visited: set[int]) -> Iterator[Place]:
    value = read()
    if isinstance(value, (ModuleType, type)):
        return
    yield Place(name, read, value)
    if isinstance(value, (FunctionType, MethodType)):
        if not value.__module__.startswith(("torch.", "offline_losses.")):
            yield from _function(value, visited)
    elif type(value) not in _NUMBERS:
        yield from _attributes(name, value)


def _attributes(name: str, value: Any) -> Iterator[Place]:
    if isinstance(value, nn.Module):
        yield Place(f"{name}.training", partial(getattr, value, "training"), value.training)
    elif not isinstance(value, (Tensor, Optimizer)) and hasattr(value, "__dict__"):
        held = vars(value)
        for key, inner in held.items():
            if type(inner) in _NUMBERS:
                yield Place(f"{name}.{key}", partial(held.get, key), inner)


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
