"""What a function reads from outside its arguments: numbers, and which objects its names stand for."""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterator
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

NUMBERS = (bool, int, float, str, type(None))
_HELD = (Tensor, nn.Module, Optimizer, FunctionType, MethodType)


class Place(NamedTuple):
    """Something read from outside, and what stood there."""

    label: str
    read: Callable[[], Any]
    seen: Any

    @property
    def changed(self) -> bool:
        """Whether another number, or another object, stands there now."""
        now = self.read()
        return now is not self.seen and (type(self.seen) not in NUMBERS or now != self.seen)


def outside(function: Callable[..., Any]) -> list[Place]:
    """What the function and its helpers reach through closures and globals, and one attribute or item further."""
    return list(_function(function, set()))


def settings(optimizers: list[Optimizer]) -> list[Place]:
    """The settings of the optimizers apart from their learning rates, and their state and groups as a whole."""
    groups = [
        Place(f"{type(optimizer).__name__}'s number of groups", partial(len, optimizer.param_groups), count)
        for optimizer in optimizers
        for count in [len(optimizer.param_groups)]
    ]
    return groups + [
        Place(f"{type(optimizer).__name__}'s {key}", partial(held.get, key), value)
        for optimizer in optimizers
        for held in (vars(optimizer), *optimizer.param_groups)
        for key, value in held.items()
        if key not in ("params", "lr") and (type(value) in NUMBERS or key in ("state", "param_groups", "betas"))
    ]


def _function(function: Any, visited: set[int]) -> Iterator[Place]:
    while isinstance(function, partial):
        function = function.func
    if not isinstance(function, (FunctionType, MethodType)) and hasattr(type(function), "__call__"):  # noqa: B004
        function = MethodType(type(function).__call__, function)
    if isinstance(function, MethodType):
        yield from _inside("self", function.__self__)
        function = function.__func__
    if not isinstance(function, FunctionType) or id(function) in visited:
        return
    visited.add(id(function))
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield from _value(name, partial(_contents, cell), visited)
    for name in sorted(_globals(function.__code__)):
        if name in function.__globals__:
            yield from _value(name, partial(function.__globals__.get, name), visited)


def _globals(code: CodeType) -> set[str]:
    """Names that the code looks up globally, in functions defined inside it too; attributes are not among them."""
    found = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return found.union(*(_globals(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _value(name: str, read: Callable[[], Any], visited: set[int]) -> Iterator[Place]:
    value = read()
    if isinstance(value, (ModuleType, type)):
        return
    yield Place(name, read, value)
    if isinstance(value, (FunctionType, MethodType, partial)):
        if not getattr(value, "__module__", "").startswith(("torch.", "offline_losses.")):
            yield from _function(value, visited)
    elif type(value) not in NUMBERS:
        yield from _inside(name, value)


def _inside(name: str, value: Any) -> Iterator[Place]:
    """The numbers and objects in a container or among the attributes."""
    if isinstance(value, nn.Module):
        yield Place(f"{name}.training", partial(getattr, value, "training"), value.training)
    if isinstance(value, dict):
        held, get, label = value, value.get, "{}[{!r}]"
    elif isinstance(value, (list, tuple)):
        held, get, label = dict(enumerate(value)), partial(_item, value), "{}[{!r}]"
    elif not isinstance(value, (Tensor, Optimizer, nn.Module)) and hasattr(value, "__dict__"):
        held, get, label = vars(value), vars(value).get, "{}.{}"
    else:
        return
    for key, inner in held.items():
        if type(inner) in NUMBERS or isinstance(inner, _HELD):
            yield Place(label.format(name, key), partial(get, key), inner)


def _item(values: Any, index: int) -> Any:
    return values[index] if index < len(values) else None


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
