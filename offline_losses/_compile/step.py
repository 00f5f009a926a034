"""An update that is compiled whole, or in parts, or not at all; whichever it is, each call is one update."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from threading import RLock, Timer
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from offline_losses._compile.backend import compile_part, kept
from offline_losses._compile.optimizers import NO_STATE, TraceableOptimizer, Untraceable
from offline_losses._compile.private import BACKWARD, UPDATE, forget_static
from offline_losses._compile.reason import changes_always, why
from offline_losses._compile.recorder import recording
from offline_losses._compile.switches import switched_off
from offline_losses._compile.tracer import PARTS, compile_with
from offline_losses._compile.whole import Untraced, Whole

PIECES = 8
"""How many graphs one piece of an update compiled in parts may need before it runs eagerly."""

NEW_OPTIMIZERS = 8
"""In how many calls new optimizers may turn up."""

PATIENCE = 5.0
"""After so many seconds of compiling one is told."""

_TURN = RLock()
"""Of the thread that compiles or runs: PyTorch crashes where one looks for a graph while another makes one."""


class Step:
    """Run as it is once, to see the optimizers and make their state; then compiled."""

    def __init__(self, update: Callable[..., Any], keep_gradients: bool) -> None:
        self.update, self.keep_gradients = update, keep_gradients
        self.name = getattr(update, "__name__", type(update).__name__)
        self.optimizers: dict[int, Optimizer] = {}
        self.modules: dict[int, nn.Module] = {}
        self.traceable: list[TraceableOptimizer] = []
        self.recorded = self.plain = self.second_order = False
        self.recordings = 0
        self.whole: Whole | None = None
        self.parts: Callable[..., Any] | None = None
        self.said: set[str] = set()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self.update(*args, **kwargs)
        if reason := switched_off():
            self._say(f"runs eagerly: {reason}.")
            return self._eagerly(args, kwargs)
        if self.plain:
            return self._eagerly(args, kwargs)
        with _TURN:
            return self._in_turn(args, kwargs)

    def _in_turn(self, args: Any, kwargs: Any) -> Any:
        if not self.recorded:
            return self._record(args, kwargs)
        if self.parts is None:
            try:
                self.whole = self.whole or Whole(
                    self.update, self.traceable, self.keep_gradients, self.modules, self._tracing
                )
                return self.whole(args, kwargs)
            except Untraceable as reason:
                self._divide(str(reason))
            except Untraced as untraced:
                return self._instead(untraced.reason, args, kwargs)
        return self._eagerly(args, kwargs) if self.parts is None else self._in_parts(args, kwargs)

    def _eagerly(self, args: Any, kwargs: Any) -> Any:
        return tree_map(kept, self.update(*args, **kwargs))

    def _record(self, args: Any, kwargs: Any) -> Any:
        """Run as it is, and learn which optimizers step."""

        def note(module: nn.Module, _: Any) -> None:
            self.modules[id(module)] = module

        hook = register_module_forward_pre_hook(note)
        try:
            with recording() as recorder:
                result = self._eagerly(args, kwargs)
        finally:
            hook.remove()
        self.recorded = True
        self.second_order = self.second_order or recorder.second_order
        if reason := UPDATE.missing() or BACKWARD.missing():
            self._divide(f"{reason}, with which a whole update is compiled")
        elif any(isinstance(module, nn.parallel.DistributedDataParallel) for module in self.modules.values()):
            self._divide("DistributedDataParallel exchanges gradients in hooks of the backward pass")
        new = [optimizer for key, optimizer in recorder.optimizers.items() if key not in self.optimizers]
        self.optimizers.update(recorder.optimizers)
        try:
            self.traceable += map(TraceableOptimizer, new)
        except Untraceable as reason:
            self._divide(str(reason))
        if new:
            self.whole = None
        return result

    def _instead(self, error: Exception, args: Any, kwargs: Any) -> Any:
        """After a trace that failed do this update as it is, and decide about the next ones."""
        optimizers = len(self.optimizers)
        self.recordings += 1
        result = self._record(args, kwargs)
        if self.recordings == NEW_OPTIMIZERS and len(self.optimizers) > optimizers:
            self.plain = True
            self._say("runs eagerly: it makes new optimizers again and again. Make them outside of the update.")
            return result
        if len(self.optimizers) > optimizers or NO_STATE in str(error):
            return result
        if changes_always(error):
            self.plain = True
            self._say(f"runs eagerly: {why(error)}.")
        else:
            self._divide(why(error))
        return result

    def _divide(self, reason: str) -> None:
        """From now on compile what lies between the places that cannot be traced."""
        if missing := UPDATE.missing():
            self.plain = True
            self._say(f"runs eagerly: {missing}.")
            return
        if self.second_order:
            self.plain = True
            self._say(f"runs eagerly: {reason}. In parts it cannot be compiled, since it differentiates a gradient.")
            return
        self._say(f"is compiled in parts: {reason}.")
        self.parts, tracer = compile_with(compile_part, self.update, PARTS, whole=False, limit=PIECES)
        tracer.around = self._tracing

    def _in_parts(self, args: Any, kwargs: Any) -> Any:
        """With steps of optimizers as they are, which a compiler would make anew for every learning rate."""
        assert self.parts is not None
        optimizers = list(self.optimizers.values())
        before = [vars(optimizer).get("step") for optimizer in optimizers]
        for optimizer in optimizers:
            vars(optimizer)["step"] = _step_as_it_is(optimizer)
        try:
            return tree_map(kept, self.parts(*args, **kwargs))
        finally:
            for optimizer, step in zip(optimizers, before, strict=True):
                vars(optimizer)["step"].restore()
                del vars(optimizer)["step"]
                if step is not None:
                    vars(optimizer)["step"] = step

    @contextmanager
    def _tracing(self) -> Iterator[None]:
        """Around each trace: forget what an earlier one wrote onto parameters, and say what takes so long."""
        forget_static(p for o in self.optimizers.values() for group in o.param_groups for p in group["params"])
        timer = Timer(PATIENCE, print, (f"compile_update: compiling {self.name} ...",), {"file": sys.stderr})
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _say(self, sentence: str) -> None:
        if sentence not in self.said:
            self.said.add(sentence)
            depth = 1
            while (frame := sys._getframe(depth)) and frame.f_globals.get("__name__", "").startswith("offline_losses."):
                depth += 1
            warnings.warn(f"compile_update: {self.name} {sentence}", stacklevel=depth + 1)


def _step_as_it_is(optimizer: Optimizer) -> Any:
    """The optimizer's step, with `capturable` as it was: Dynamo sets it where the update writes into a group."""
    groups = [(group, group.get("capturable")) for group in optimizer.param_groups]
    own = optimizer.step

    def restore() -> None:
        for group, capturable in groups:
            if capturable is None:
                group.pop("capturable", None)
            else:
                group["capturable"] = capturable

    @wraps(own)
    def step(*args: Any, **kwargs: Any) -> Any:
        restore()
        return own(*args, **kwargs)

    disabled = torch.compiler.disable(step)  # type: ignore[no-untyped-call]
    disabled.restore = restore
    return disabled
