"""Optimizers as a compiler can trace them: `step` and `zero_grad` on the optimizer's own state and settings.

PyTorch breaks the graph inside both methods on purpose. While a compiled update runs, these stand in their place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from operator import is_
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adadelta, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop
from torch.optim.adadelta import adadelta
from torch.optim.adamax import adamax
from torch.optim.nadam import nadam
from torch.optim.radam import radam
from torch.optim.rmsprop import rmsprop

from offline_losses._compile.descent import adam, sgd
from offline_losses._compile.private import hooks_of_optimizer

NO_STATE = "a parameter has a gradient for the first time"


class Untraceable(Exception):
    """An optimizer that only runs as it is; the message says why."""


_ADAM = adam, ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step")
FORMS: dict[type[Optimizer], tuple[Callable[..., None], tuple[str, ...]]] = {
    Adam: _ADAM,
    AdamW: _ADAM,
    NAdam: (nadam, ("exp_avg", "exp_avg_sq", "mu_product", "step")),
    RAdam: (radam, ("exp_avg", "exp_avg_sq", "step")),
    Adamax: (adamax, ("exp_avg", "exp_inf", "step")),
    RMSprop: (rmsprop, ("square_avg", "grad_avg", "momentum_buffer", "step")),
    Adadelta: (adadelta, ("square_avg", "acc_delta", "step")),
    SGD: (sgd, ("momentum_buffer",)),
}
"""The function that steps, and the state that it takes after parameters and gradients."""

LIVE = "lr", "betas", "momentum"
"""Settings that schedulers change: the first is a tensor from the start, the others from their first change on."""

_FIXED = {"foreach": True, "capturable": True, "differentiable": False, "has_complex": False}
"""The form of each function that takes every number as a tensor."""


_NONE: dict[str, Any] = {}


class _Group:
    """One group of parameters, with its state in lists, which are read before the user's code reads the same tensors.

    Where one of two readers is an optimizer, Dynamo leaves out the guard that both hold the same tensor.
    """

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.params: list[Tensor] = []
        self.state: list[list[Any]] = []
        self.ready: list[bool] = []
        self.lent: dict[str, tuple[Any, Any]] = {}  # what the group holds, and what stands in for it meanwhile
        self.computed: list[tuple[Any, Tensor]] = []  # numbers that the update has computed, and as what
        self.seen: dict[str, Any] = {}
        self.live = {"lr"}
        self.capturable: bool | None = None

    def lend(self) -> None:
        """Put tensors in the place of numbers that may change."""
        settings = self.settings
        self.computed.clear()
        for name in LIVE:
            number = settings.get(name)
            if number is None or isinstance(number, Tensor) or number == 0:
                self.lent.pop(name, None)
                continue
            value = tuple(number) if isinstance(number, list) else number  # a list may be written into
            before, self.seen[name] = self.seen.get(name, value), value
            if name not in self.live and before == value:
                continue
            self.live.add(name)
            if name in self.lent and before == value:
                self.lent[name] = number, self.lent[name][1]
            else:  # a new tensor: the old one may have been logged
                self.lent[name] = number, self._tensors(value)
            settings[name] = self.lent[name][1]

    def stand_ins(self) -> list[tuple[int, Any]]:
        """Each tensor lent, by identity, with its number."""
        return [(id(tensor), number) for number, tensor in (*self.lent.values(), *self.computed)]

    def _tensors(self, number: Any) -> Any:
        """One element each, not 0-d: Dynamo takes the value of a 0-d tensor of doubles for a known number."""
        if isinstance(number, tuple):
            return tuple(map(self._tensors, number))
        device = self.params[0].device if self.params else torch.device("cpu")
        dtype = torch.float32 if device.type == "mps" else torch.float64
        return torch.full((1,), number, dtype=dtype, device=device)

    def restore(self) -> None:
        """Put the numbers back; what the update has computed from a tensor becomes a number."""
        settings = self.settings
        for name in LIVE:
            number, tensor = self.lent.get(name, (None, None))
            held = settings.get(name)
            if held is None or tensor is None:
                continue
            if held is tensor:
                settings[name] = number
            elif isinstance(held, Tensor):
                settings[name] = held.item()
                self.computed.append((settings[name], held))
            elif isinstance(held, (tuple, list)):
                settings[name] = type(held)(x.item() if isinstance(x, Tensor) else x for x in held)
        if self.capturable is None:  # Dynamo writes True there if the update writes into the group
            settings.pop("capturable", None)
        else:
            settings["capturable"] = self.capturable


class TraceableOptimizer:
    """Stands in for the methods of an optimizer while a compiled update runs."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        if type(optimizer) not in FORMS:
            raise Untraceable(f"{type(optimizer).__name__} has no form that can be traced")
        self.function, self.names = FORMS[type(optimizer)]
        arguments = [*inspect.signature(self.function).parameters][2 + len(self.names) :]
        self.fixed = {name: value for name, value in _FIXED.items() if name in arguments}
        self.arguments = [name for name in arguments if name not in self.fixed]
        self.groups: list[_Group] = []
        self.held: list[Any] = []
        self.replaced: dict[str, Any] = {}
        self.cleared = self.stepped = False

    def refresh(self) -> bool:
        """Take over what the optimizer holds now, and say whether that is new; refuse what cannot be traced."""
        optimizer = self.optimizer
        if hooks_of_optimizer(optimizer):
            raise Untraceable(f"{type(optimizer).__name__} has hooks on its steps")
        step = vars(optimizer).get("step")
        if step is not None and not hasattr(step, "_wrapped_by_lr_sched"):
            raise Untraceable(f"the step of {type(optimizer).__name__} was replaced")
        state = optimizer.state
        held: list[Any] = [*optimizer.param_groups]
        for group in optimizer.param_groups:
            held += group["params"]
            for p in group["params"]:
                held += state.get(p, _NONE).values()
        if len(held) == len(self.held) and all(map(is_, held, self.held)):
            return False
        self.held = held
        while len(self.groups) < len(optimizer.param_groups):
            self.groups.append(_Group())
        del self.groups[len(optimizer.param_groups) :]
        for own, settings in zip(self.groups, optimizer.param_groups, strict=True):
            self._refresh(own, settings)
        return True

    def _refresh(self, group: _Group, settings: dict[str, Any]) -> None:
        if settings.get("differentiable"):
            raise Untraceable("its step is differentiable")
        group.settings, group.capturable = settings, settings.get("capturable")
        group.params[:] = settings["params"]
        held = [self.optimizer.state.get(p, _NONE) for p in group.params]
        group.state[:] = [[state.get(name) for state in held] for name in self.names]
        last = group.state[-1]
        group.ready[:] = [x is not None for x in last]
        if self.function is sgd:
            return
        for i, (step, p) in enumerate(zip(last, group.params, strict=True)):
            if step is not None and step.device != p.device:  # a number on the host would stop a card
                last[i] = held[i]["step"] = step.to(p.device)

    def stand_in(self) -> None:
        """Replace the optimizer's methods, and by tensors its learning rates and whatever else changes."""
        held = vars(self.optimizer)
        self.replaced = {name: held[name] for name in ("step", "zero_grad") if name in held}
        held["step"], held["zero_grad"] = self.step, self.zero_grad
        for group in self.groups:
            group.lend()

    def stand_back(self) -> None:
        """Put back what was there, but for what the update has set itself."""
        for group in self.groups:
            group.restore()
        held = vars(self.optimizer)
        for name in ("step", "zero_grad"):
            held.pop(name, None)
        held.update(self.replaced)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As the optimizer's own."""
        self.cleared = self.cleared or (set_to_none and not self.stepped)
        for group in self.groups:
            for p in group.params:
                if set_to_none:
                    p.grad = None
                elif p.grad is not None:
                    p.grad.detach().zero_()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """As the optimizer's own."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.groups:
                self._step(group)
        self.stepped = True
        return loss

    def _step(self, group: _Group) -> None:
        settings = group.settings
        places = [i for i, p in enumerate(group.params) if p.grad is not None]
        # without momentum gradient descent has no state, or leaves it alone
        stateless = self.function is sgd and not isinstance(settings["momentum"], Tensor) and settings["momentum"] == 0
        if not stateless and not all([group.ready[i] for i in places]):  # noqa: C419
            raise RuntimeError(NO_STATE)
        if not places:
            return
        params = [group.params[i] for i in places]
        grads = [group.params[i].grad for i in places]
        state = [[values[i] for i in places if values[i] is not None and not stateless] for values in group.state]
        numbers = {name: settings[name] for name in self.arguments if name in settings}
        if not isinstance(numbers["lr"], Tensor):  # the update has set it
            numbers["lr"] = torch.full((), numbers["lr"], dtype=torch.float64, device=params[0].device)
        if "betas" in settings:
            numbers["beta1"], numbers["beta2"] = settings["betas"]
        numbers = {name: x.squeeze() if isinstance(x, Tensor) else x for name, x in numbers.items()}
        if self.function in (adam, sgd):
            self.function(params, grads, *state, **numbers)
        else:  # which count in single precision if they are not given doubles
            counts = [[x.double() if x.dim() == 0 else x for x in values] for values in state]
            self.function(params, grads, *counts, **self.fixed, **numbers)
            for values, inner in zip(state, counts, strict=True):
                for x, y in zip(values, inner, strict=True):
                    if x.dim() == 0:
                        x.copy_(y)
