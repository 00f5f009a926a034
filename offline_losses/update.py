"""One compiled step: losses, backward, optimizers and target networks as a single piece of generated code.

At the batch sizes of reinforcement learning an update is hundreds of small operators, and most of its time goes into
calling them. `compile_update` runs the update once under a tracer that sees the operators below autograd, so that the
backward pass and the optimizer are in the trace like everything else, and hands the whole of it to TorchInductor.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from offline_losses._compile.optimizers import Rate, as_tensors, for_tracing, forget_gradients, parameters, stepping
from offline_losses._compile.replay import Replay, options_of_card
from offline_losses._compile.switches import first_line, switched_off
from offline_losses._compile.trace import Backup, Trace
from offline_losses._compile.watch import NUMBERS, Place, outside, settings

KINDS = 16
"""How many combinations of other arguments are compiled, each for itself."""

RECAPTURES = 8
"""How often numbers outside the arguments may change before the update runs eagerly."""


def compile_update(update: Callable[..., Any]) -> Callable[..., Any]:
    r"""Turn an update (losses, backward, optimizer steps, polyak) into a compiled one that is called the same way.

    The first call runs as it is. The second is traced while it runs, and compiled (ten to forty seconds, less when the
    compiler's cache on disk knows it). From the third on a call is one compiled step; on a GPU it is replayed as a CUDA
    graph from the fourth on. Each call is exactly one update.

    What may change from call to call:

    - tensors among the arguments, in dictionaries and containers too, with the shapes of the first call;
    - Python floats among the arguments: the update gets them as 0-d tensors, which every hyper-parameter accepts;
    - learning rates, by a scheduler or by hand (in `param_groups` they are 0-d tensors from then on);
    - weights and moments, by `load_state_dict`.

    Other arguments (`True`, `3`, `"mean"`) choose between updates: each combination is compiled for itself. Numbers and
    objects that the update reads from its closure or its globals, or one attribute or item further, and the optimizers'
    other settings are part of the code: when one changes, the next call is traced anew. Anything else that Python does
    (printing, counting, appending) happens in calls that are not compiled only, and no value can be looked at
    (`.item()`, `if loss > 1`).

    The gradients are not kept: after a compiled call `parameter.grad` is None.

    Args:
        update: function of tensors, containers of tensors and numbers, which returns tensors or a container of them
            (metrics, for instance), or None.

    Returns:
        A function with the same arguments. Tensors in its result are detached and stay as they are.

    Raises:
        ValueError: a tensor argument whose shape, dtype or device is not that of the first call.
        TypeError: an argument that is no tensor, number or word (an array, for instance).

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
    steps: dict[Any, list[_Step]] = {}

    @wraps(update)
    def compiled(*args: Any, **kwargs: Any) -> Any:
        flat, spec = tree_flatten((args, kwargs))
        tensors = [i for i, x in enumerate(flat) if isinstance(x, Tensor)]
        floats = [i for i, x in enumerate(flat) if isinstance(x, float)]
        others = tuple((i, type(x), x) for i, x in enumerate(flat) if not isinstance(x, (Tensor, float)))
        if strange := next((kind for _, kind, _ in others if kind not in (*NUMBERS, torch.dtype, torch.device)), None):
            raise TypeError(
                f"compile_update: arguments: expected tensors, numbers, words and containers of them, got a "
                f"{strange.__name__}. Convert it to a tensor, or let the update read it from outside."
            )
        key = tuple(tensors), tuple(floats), others
        step = next((step for step in steps.get(key, ()) if step.spec == spec), None)
        if step is None:
            step = _Step(update, spec, tensors, floats)
            if sum(map(len, steps.values())) < KINDS:
                steps.setdefault(key, []).append(step)
            else:
                step.reason = f"its arguments, tensors and floats aside, take more than {KINDS} forms"
        return step(flat)

    return compiled


class _Step:
    """The update for one kind of arguments: run as it is, then traced and compiled, then replayed."""

    def __init__(self, update: Callable[..., Any], spec: TreeSpec, tensors: list[int], floats: list[int]) -> None:
        self.update, self.spec, self.tensors, self.floats = update, spec, tensors, floats
        self.reason: str | None = None
        self.said: str | None = None
        self.optimizers: list[Optimizer] | None = None
        self.code: _Code | None = None
        self.changes = 0
        self.rates: list[Rate] = []

    def __call__(self, flat: list[Any]) -> Any:
        if reason := self.reason or switched_off():
            self._say(reason)
            return self._eager(flat)
        if self.optimizers is None:
            return self._first(flat)
        self._check(flat)
        if self.code is not None and (place := self.code.outdated()) is not None:
            self.code = None
            self.changes += type(place.seen) in NUMBERS
            if self.changes == RECAPTURES:
                self._give_up(
                    f"{place.label}, which it reads from outside its arguments, changes again and again; "
                    f"pass it as an argument"
                )
                return self._eager(flat)
        if self.code is None:
            return self._capture(flat, self.optimizers)
        return self.code([flat[i] for i in self.tensors], [flat[i] for i in self.floats])

    def _say(self, reason: str) -> None:
        if reason != self.said:
            self.said = reason
            _say(self.update, reason)

    def _give_up(self, reason: str) -> None:
        """From now on eagerly, with learning rates that are numbers again."""
        for rate in self.rates:
            rate.release()
        self.reason = reason
        self._say(reason)

    def _eager(self, flat: Sequence[Any]) -> Any:
        args, kwargs = tree_unflatten(flat, self.spec)
        return _kept(self.update(*args, **kwargs))

    def _with(self, flat: Sequence[Any], inner: Sequence[Tensor]) -> list[Any]:
        values = list(flat)
        for place, x in zip([*self.tensors, *self.floats], inner, strict=True):
            values[place] = x
        return values

    def _first(self, flat: list[Any]) -> Any:
        """Run as it is, to make the optimizers' state and to learn which optimizers there are."""
        with stepping() as found:
            result = self._eager(flat)
        self.optimizers = list(found.values())
        self.expected = [torch.empty_like(flat[i], device="meta") for i in self.tensors]
        self.devices = [flat[i].device for i in self.tensors]
        return result

    def _check(self, flat: list[Any]) -> None:
        for i, like, device in zip(self.tensors, self.expected, self.devices, strict=True):
            x = flat[i]
            if x.shape != like.shape or x.dtype != like.dtype or x.device != device:
                raise ValueError(
                    f"compile_update: tensor {self.tensors.index(i)} of the arguments: expected shape "
                    f"{list(like.shape)}, {like.dtype} on {device} as in the first call, got {list(x.shape)}, "
                    f"{x.dtype} on {x.device}. A compiled update has fixed shapes: drop the smaller last batch, or pad "
                    f"it and pass a mask."
                )

    def _capture(self, flat: list[Any], optimizers: list[Optimizer]) -> Any:
        """Trace the update while it runs, then compile the trace; whatever fails, this call is one update."""
        before = outside(self.update)
        moved = parameters(optimizers)
        device = next((x.device for x in (*moved, *(flat[i] for i in self.tensors))), torch.device("cpu"))
        knobs = [torch.tensor(flat[i], dtype=torch.get_default_dtype(), device=device) for i in self.floats]
        inputs = [*(flat[i].contiguous() for i in self.tensors), *knobs]
        rates = self.rates = as_tensors(optimizers)
        backup = Backup(moved)
        try:
            with stepping() as found, backup, for_tracing(optimizers):
                trace = Trace(lambda *inner: self._eager(self._with(flat, inner)), inputs)
        except Exception as error:
            backup.restore()
            self._give_up(f"it cannot be traced ({type(error).__name__}: {first_line(error)})")
            return self._eager(flat)
        known = {id(optimizer) for optimizer in optimizers}
        if new := [optimizer for key, optimizer in found.items() if key not in known]:
            optimizers += new  # they were not prepared: the next call is traced anew
            self.changes += 1
            if self.changes == RECAPTURES:
                self._give_up("it makes new optimizers again and again; make them outside of the update")
            return trace.result
        if place := next((place for place in before if place.changed), None):
            self._give_up(f"it changes {place.label} itself; count outside of the update")
            return trace.result
        try:
            self.code = _Code(trace, inputs, knobs, rates, [*before, *settings(optimizers)])
        except Exception as error:
            self._give_up(f"the compiler fails with {type(error).__name__}: {first_line(error)}")
        forget_gradients(optimizers, trace.state)
        return trace.result


class _Code:
    """The compiled trace, with everything that it must be given or that must not have changed."""

    def __init__(
        self, trace: Trace, inputs: list[Tensor], knobs: list[Tensor], rates: list[Rate], places: list[Place]
    ) -> None:
        from torch._guards import TracingContext, tracing
        from torch._inductor import compile
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        self.trace, self.knobs, self.rates, self.places = trace, knobs, rates, places
        self.state = [x.detach() for x in trace.state]
        self.addresses = [x.data_ptr() for x in trace.state]
        self.live = {x.untyped_storage().data_ptr() for x in (*self.state, *inputs)}
        self.replays = any(x.is_cuda for x in (*self.state, *inputs))
        # what is compiled outside of Dynamo has shapes of no environment, for which the compiler uses no cache
        environment = ShapeEnv(
            assume_static_by_default=True, allow_scalar_outputs=False, allow_dynamic_output_shape_ops=False
        )
        shapes = TracingContext(FakeTensorMode(shape_env=environment))
        with torch.no_grad(), tracing(shapes):
            self.run: Callable[..., Sequence[Tensor]] = compile(
                trace.module,
                [*self.state, *(x.detach() for x in inputs)],
                options=options_of_card(inputs, self.state) if self.replays else None,
            )

    def outdated(self) -> Place | None:
        """The first thing that has changed since the trace, memory that was exchanged under a parameter included."""
        if list(map(Tensor.data_ptr, self.trace.state)) != self.addresses:
            return Place("a tensor", lambda: None, self)
        return next((place for place in self.places if place.changed), None)

    def __call__(self, tensors: Sequence[Tensor], numbers: Sequence[float]) -> Any:
        for rate in self.rates:
            rate.follow()
        for knob, number in zip(self.knobs, numbers, strict=True):
            knob.fill_(number)
        inputs = [*(x.detach().contiguous() for x in tensors), *self.knobs]
        with torch.no_grad():
            results = self.run(*self.state, *inputs)
        if self.replays and not isinstance(self.run, Replay):
            self.run = Replay(self.run, len(self.state), len(self.state) + len(tensors))
        leaves = list(self.trace.constants)
        for place, x in zip(self.trace.returned, results, strict=True):
            # The compiler drops a copy at the end: a metric that is part of a parameter would go on changing.
            leaves[place] = x.clone() if x.untyped_storage().data_ptr() in self.live else x
        return tree_unflatten(leaves, self.trace.spec)


def _say(update: Callable[..., Any], reason: str) -> None:
    name = getattr(update, "__name__", "update")
    warnings.warn(f"compile_update: {name} runs eagerly: {reason}.", stacklevel=5)


def _kept(result: Any) -> Any:
    leaves, spec = tree_flatten(result)
    return tree_unflatten([x.detach().clone() if isinstance(x, Tensor) else x for x in leaves], spec)
