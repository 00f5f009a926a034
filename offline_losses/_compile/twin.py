"""The fused twin of one function: a table from the kind of call to the code that was generated for it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from offline_losses._compile import private
from offline_losses._compile.call import Call, LossNode, ResultNode
from offline_losses._compile.graph import LARGE, SHAPES, Graphs, Plan, size_class
from offline_losses._compile.switches import Process, Unsupported, switched_off, warn_once
from offline_losses._core.reduce import in_double

P = ParamSpec("P")
R = TypeVar("R")
Entry = Callable[[Sequence[Any]], Any]

FEW = {True: 5, False: 10}
"""Up to so many operators, its gradient's included, a call is cheaper run as it is, if its tensors are small: where the
gradient would be computed beside the value, and where it would have a graph of its own."""

SMALL, SMALL_ON_CARD = 2**14, 2**20
"""A tensor of fewer elements is small. On a card calls are what takes time, until the kernels take longer."""

HEAVY = 2**23
"""From this many elements on a card writes a gradient once, scaled, rather than with the value and scaled later."""

BY_EPISODES = {torch.ops.aten.sort: SMALL, torch.ops.aten.cummax: 2**18}
"""Fewer steps than these, on a card fewer than SMALL_ON_CARD, are run as they are, where a function sorts episodes or
looks for their beginnings: its generated code takes many calls, whatever the number of steps."""

_UNKNOWN: Any = object()


def fuse(function: Callable[P, R]) -> Callable[P, R]:
    """The fused twin of a pure function of tensors whose hyper-parameters are annotated `Knob`."""
    signature = inspect.signature(function)
    entries: dict[Any, Entry | None] = {}
    graphs: dict[Any, Graphs] = {}
    eager = _Eager()

    @wraps(function)
    def twin(*args: P.args, **kwargs: P.kwargs) -> R:
        if (eager.below or eager.differentiated) and eager.takes(args, kwargs):
            return function(*args, **kwargs)
        if torch.compiler.is_compiling() or _is_off(function.__name__, graphs) or private.wants_operators():
            return function(*args, **kwargs)
        values = (*args, *kwargs.values())
        try:
            key = _key(values, kwargs)
            entry = entries.get(key, _UNKNOWN)
        except (
            TypeError,
            RuntimeError,
        ):  # what cannot be hashed or has no shape: the function says what is wrong with it
            return function(*args, **kwargs)
        if entry is _UNKNOWN:
            if _is_off(function.__name__, graphs, new=True):
                return function(*args, **kwargs)
            if len(entries) >= SHAPES:
                entries.clear()
            with saved_tensors_hooks(_as_it_is, _as_it_is):  # a checkpoint's hooks shall not see the first look
                entry = _entry(function, signature, args, kwargs, graphs, eager)
            if not _is_capturing():  # what is filled there has no value before the replay
                entries[key] = entry
        if entry is None:
            return function(*args, **kwargs)
        result: R = entry(values)
        return result

    twin.graphs = graphs  # type: ignore[attr-defined]
    return twin


class _Eager:
    """Below how many elements the function itself is faster than finding its code.

    The first tensor tells, or the first that requires a gradient: this is asked before everything else, in a
    microsecond.
    """

    def __init__(self) -> None:
        self.below: float = 0
        self.by_episodes = self.differentiated = False

    def takes(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the function itself runs this call."""
        for x in (*args, *kwargs.values()) if kwargs else args:
            if isinstance(x, Tensor):
                if self.below:
                    return x.numel() < self.below if x.is_cpu else self.by_episodes and _is_small(x)
                if x.requires_grad:
                    return _is_small(x) and torch.is_grad_enabled()
        return False


def _key(values: Sequence[Any], names: Iterable[str]) -> tuple[Any, ...]:
    """Everything that decides how a call is to be run, sizes and numbers included."""
    key: list[Any] = [torch.is_grad_enabled(), torch.get_num_threads(), *names]
    for value in values:
        kind = type(value)
        if kind is Tensor or isinstance(value, Tensor):
            whole = value.layout is torch.strided and value.is_contiguous()
            grad = value.requires_grad and ("leaf" if value.is_leaf else True)
            key += (kind, value.shape, value.dtype, value.device, grad, whole, value.is_inference())
        else:
            key += (kind, value)
    return tuple(key)


def _is_off(name: str, graphs: dict[Any, Graphs], new: bool = False) -> bool:
    """Whether nothing, or nothing of a new kind, may run as generated code here."""
    wanted = private.stance()
    if wanted == "force_eager" or Process.forked or private.missing_for_calls():
        warn_once(str(switched_off()))
        return True
    if new and graphs and wanted == "fail_on_recompile":
        raise RuntimeError(
            f"{name}: fail_on_recompile: expected a call that is compiled already, got new sizes, dtypes or options. "
            f"Call it once with them under the default stance."
        )
    return new and bool(graphs) and wanted == "eager_on_recompile"


def _entry(
    function: Callable[..., Any],
    signature: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    graphs: dict[Any, Graphs],
    eager: _Eager,
) -> Entry | None:
    """Generated code for calls of this kind, or None where the function itself is as good or the only way."""
    parameters = list(signature.parameters.values())
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:  # Python itself says it better
        return None
    given = [*parameters[: len(args)], *(signature.parameters[name] for name in kwargs)]
    bound.apply_defaults()
    values = list(bound.arguments.values())
    tensors = [value for value in values if isinstance(value, Tensor)]
    if not all(type(x) in (Tensor, torch.nn.Parameter) and x.layout is torch.strided for x in tensors):
        return None
    whole = Call(function, parameters, values)  # refuses bad arguments as the function does
    devices = {x.device for x in tensors}
    if len(devices) > 1 or "meta" in {device.type for device in devices}:
        return None
    if any(x.numel() == 0 for x in tensors) or _is_single(tensors):
        return None
    if whole.wrt and any(x.is_inference() for x in tensors):  # autograd saves none of these
        return None
    if limit := next((limit for operator, limit in BY_EPISODES.items() if operator in whole.operators), 0):
        eager.below, eager.by_episodes = limit, True
        if eager.takes(tuple(tensors), {}):
            return None
        if whole.numbers and not whole.wrt and tensors[0].is_cpu:
            return None  # in blocks that stay in the cache
    # a node that no gradient reaches hands none on: a leaf takes that for none, but other nodes may take it for zeros
    one_node = all(tensors[k].is_leaf for k in whole.apart)
    calls = [whole] if one_node else [Call(function, parameters, values, group) for group in whole.groups]
    try:
        if reason := switched_off():
            raise Unsupported(reason)
        runs = [run for call in calls if (run := _generated(call, tensors, graphs, eager))]
    except Unsupported as reason:
        warn_once(str(reason))
        return None
    if len(runs) < len(calls):
        return None
    kind, places = whole.kind, [given.index(parameters[i]) for i in whole.tensors]

    def entry(values: Sequence[Any]) -> Any:
        inputs = [values[i] for i in places]
        if kind is None:
            return runs[0](inputs)[0]
        if len(runs) == 1:
            return kind(*runs[0](inputs))
        found = dict(
            x for call, run in zip(calls, runs, strict=True) for x in zip(call.chosen, run(inputs), strict=True)
        )
        return kind(*(found[i] for i in range(len(found))))

    return entry


def _generated(call: Call, tensors: Sequence[Tensor], graphs: dict[Any, Graphs], eager: _Eager) -> Entry | None:
    """Generated code from a call's tensors to its results."""
    device = tensors[0].device
    knobs = [in_double(call.others[i], device) for i in call.knobs]
    options = tuple(value for i, value in enumerate(call.others) if i not in call.tensors and i not in call.knobs)
    wrt = [tensors[k] for k in call.wrt]
    loss = bool(wrt) and call.scalar and all(map(_is_wide, wrt)) and not any(map(_is_heavy, wrt))
    if wrt and call.operators.total() <= FEW[loss] and all(map(_is_small, tensors)):
        eager.differentiated = True
        return None
    kind = "loss" if loss else "results and gradients" if wrt else "value"
    places = tuple(map(tuple, (call.tensors, call.knobs, call.wrt, call.chosen)))
    shape = places, tuple((x.dtype, x.dim()) for x in tensors)
    plan = {
        "value": Plan(call.value),
        "loss": Plan(call.gradients_and_loss, loss=True),
        "results and gradients": Plan(call.value, call.value_and_gradients, call.differentiable),
    }[kind]
    made = graphs.setdefault((kind, device, shape, options, size_class(tensors)), Graphs(plan))
    graph = made.fit([*(x.contiguous() for x in tensors), *knobs])
    if graph is None:
        if not loss and not made:  # slower than the function itself, whatever the gradient
            eager.below = math.inf
        return None
    detached = [k for k, x in enumerate(tensors) if x.requires_grad and k not in call.wrt]

    def run(given: Sequence[Tensor]) -> Sequence[Tensor]:
        if detached:  # autograd would lead a backward pass of zeros through whatever made them
            given = [x.detach() if k in detached else x for k, x in enumerate(given)]
        if loss:
            return (LossNode.apply(call, graph, knobs, *given),)  # type: ignore[no-untyped-call]
        results: Sequence[Tensor] = (
            ResultNode.apply(call, graph, knobs, *given)  # type: ignore[no-untyped-call]
            if wrt
            else graph(*call.contiguous(given), *knobs)
        )
        return results

    return run


def _is_single(tensors: Sequence[Tensor]) -> bool:
    """Whether this is a batch of one: graphs take no size of one for an open one, and it is not worth another."""
    size = max(x.numel() for x in tensors)
    return size < 2 or (size < LARGE and any(1 in x.shape[:-1] for x in tensors))


def _is_small(tensor: Tensor) -> bool:
    return tensor.numel() < (SMALL if tensor.is_cpu else SMALL_ON_CARD if tensor.is_cuda else 0)


def _is_heavy(tensor: Tensor) -> bool:
    """Whether its gradient should not be scaled when it is there: a card does not say that the scale is one."""
    return tensor.is_cuda and tensor.numel() >= HEAVY


def _is_wide(tensor: Tensor) -> bool:
    """Whether a saved gradient loses nothing by being scaled later."""
    return tensor.dtype in (torch.float32, torch.float64)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _is_capturing() -> bool:
    """Whether a CUDA graph is being recorded."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
