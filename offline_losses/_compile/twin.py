"""The fused twin of one function: a table from the kind of call to the code that was generated for it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from offline_losses._compile import private
from offline_losses._compile.call import Call, Joint, Separate
from offline_losses._compile.graph import LARGE, SHAPES, Graphs, Unsupported, say, size_class, switched_off
from offline_losses._core.reduce import in_double

Function = TypeVar("Function", bound=Callable[..., Any])
Entry = Callable[[Sequence[Any]], Any]

FEW = {True: 3, False: 5}
"""Up to so many operators a differentiable call is cheaper run as it is, if its tensors are small: with its gradient
computed beside it, and with a graph of its own for that."""

SMALL, SMALL_ON_CARD = 2**14, 2**20
"""A tensor of fewer elements is small. On a card calls are what takes time, until the kernels take longer."""

HEAVY = 2**23
"""From this many elements on a card writes a gradient once, scaled, rather than with the value and scaled later."""

_LIGHT = {"return_filter": SMALL, "episode_return": 2**18, "reward_scale": 2**18}
"""Fewer steps than these, on a card fewer than SMALL_ON_CARD, are run as they are: to go from episode to episode takes
many calls, whatever their number."""

_UNKNOWN: Any = object()


def fuse(function: Function) -> Function:
    """The fused twin of a pure function of tensors whose hyper-parameters are annotated `Knob`."""
    parameters = list(inspect.signature(function).parameters.values())
    bind = _binder(function.__name__, parameters)
    entries: dict[Any, Entry | None] = {}
    graphs: dict[Any, Graphs] = {}
    light = _Light(_LIGHT.get(function.__name__, 0))

    @wraps(function)
    def twin(*args: Any, **kwargs: Any) -> Any:
        if (light.always or light.differentiated) and light.covers(args, kwargs):
            return function(*args, **kwargs)
        if torch.compiler.is_compiling() or _held_back(function.__name__, graphs) or private.wants_operators():
            return function(*args, **kwargs)
        values = bind(*args, **kwargs)
        key = _key(values)
        try:
            entry = entries.get(key, _UNKNOWN)
        except TypeError:  # an argument that cannot be hashed: the function itself says what is wrong with it
            return function(*args, **kwargs)
        if entry is _UNKNOWN:
            if _held_back(function.__name__, graphs, new=True):
                return function(*args, **kwargs)
            if len(entries) >= SHAPES:
                entries.clear()
            with saved_tensors_hooks(_as_it_is, _as_it_is):  # a checkpoint's hooks shall not see the first look
                entry = _entry(function, parameters, values, graphs, light)
            if not _records():  # what is filled there has no value before the replay
                entries[key] = entry
        return function(*args, **kwargs) if entry is None else entry(values)

    twin.graphs = graphs  # type: ignore[attr-defined]
    return twin  # type: ignore[return-value]


class _Light:
    """Below how many elements the function itself is faster than finding its code.

    The first tensor tells, or the first that requires a gradient: this is asked before everything else, in a
    microsecond.
    """

    def __init__(self, always: float) -> None:
        self.always, self.by_episodes, self.differentiated = always, always > 0, False

    def covers(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether this call is one of those."""
        for x in (*args, *kwargs.values()) if kwargs else args:
            if isinstance(x, Tensor):
                if self.always:
                    return x.numel() < self.always if x.is_cpu else self.by_episodes and _is_small(x)
                if x.requires_grad:
                    return _is_small(x) and torch.is_grad_enabled()
        return False


def _binder(name: str, parameters: Sequence[inspect.Parameter]) -> Callable[..., tuple[Any, ...]]:
    """A function of the same signature that returns its arguments in order: Python's own binding is the fastest."""
    heads = [p.name if p.default is p.empty else f"{p.name}=defaults[{p.name!r}]" for p in parameters]
    first = next((i for i, p in enumerate(parameters) if p.kind is p.KEYWORD_ONLY), None)
    if first is not None:
        heads.insert(first, "*")
    source = f"def {name}({', '.join(heads)}): return ({', '.join(p.name for p in parameters)},)"
    space: dict[str, Any] = {"defaults": {p.name: p.default for p in parameters}}
    exec(source, space)
    bind: Callable[..., tuple[Any, ...]] = space[name]
    return bind


def _key(values: Sequence[Any]) -> tuple[Any, ...]:
    """Everything that decides how a call is to be run, sizes and numbers included."""
    key: list[Any] = [torch.is_grad_enabled(), torch.get_num_threads()]
    for value in values:
        kind = type(value)
        if kind is Tensor or isinstance(value, Tensor):
            whole = value.layout is torch.strided and value.is_contiguous()
            key += (kind, value.shape, value.dtype, value.device, value.requires_grad, whole, value.is_inference())
        else:
            key += (kind, value)
    return tuple(key)


def _held_back(name: str, graphs: dict[Any, Graphs], new: bool = False) -> bool:
    """Whether the compiler's stance, or for a new kind of call the environment, wants no generated code here."""
    if reason := private.missing_for_calls():
        say(reason)
        return True
    wanted = private.stance()
    if wanted == "force_eager":
        say('torch.compiler.set_stance("force_eager") is in force')
    if not new or wanted == "force_eager":
        return wanted == "force_eager"
    if graphs and wanted == "fail_on_recompile":
        raise RuntimeError(
            f"{name}: fail_on_recompile: expected a call that is compiled already, got new sizes, dtypes or options. "
            f"Call it once with them under the default stance."
        )
    return bool(graphs) and wanted == "eager_on_recompile"


def _entry(
    function: Callable[..., Any],
    parameters: Sequence[inspect.Parameter],
    values: Sequence[Any],
    graphs: dict[Any, Any],
    light: _Light,
) -> Entry | None:
    """Generated code for calls of this kind, or None where the function itself is as good or the only way."""
    call = Call(function, parameters, values)  # refuses bad arguments as the function does
    tensors = [value for value in values if isinstance(value, Tensor)]
    if not all(type(x) in (Tensor, torch.nn.Parameter) and x.layout is torch.strided for x in tensors):
        return None
    devices = {x.device for x in tensors}
    if len(devices) > 1 or "meta" in {device.type for device in devices}:
        return None
    if any(x.numel() == 0 for x in tensors) or _is_single(tensors):
        return None
    if call.starts and any(x.is_inference() for x in tensors):  # autograd saves none of these
        return None
    try:
        if reason := switched_off():
            raise Unsupported(reason)
        return _generated(call, tensors, graphs, light)
    except Unsupported as reason:
        say(str(reason))
        return None


def _generated(call: Call, tensors: Sequence[Tensor], graphs: dict[Any, Any], light: _Light) -> Entry | None:
    device = tensors[0].device
    knobs = [in_double(call.others[i], device) for i in call.knobs]
    options = tuple(value for i, value in enumerate(call.others) if i not in call.tensors and i not in call.knobs)
    kinds = tuple((x.dtype, x.dim()) for x in tensors)
    shape = tuple(call.tensors), kinds, tuple(call.starts)
    kernels = {
        kind: graphs.setdefault((kind, device, shape, options, size_class(tensors)), Graphs(traced, known))
        for kind, traced, known in (
            ("value", call.forward if call.starts else call.value, 0),
            ("gradient", call.gradient, len(call.dtypes) + call.kept),
            ("joint", call.joint, 0),
        )
    }
    call.gradients = kernels["gradient"]
    call.scattered = [k for k, x in enumerate(tensors) if not x.is_contiguous()]
    starts = [tensors[k] for k in call.starts]
    joint = call.scalar and call.starts and all(map(_wide, starts)) and not any(map(_is_heavy, starts))
    if call.starts and call.operators <= FEW[bool(joint)] and all(map(_is_small, tensors)):
        light.differentiated = True
        return None
    examples = [x.contiguous() for x in tensors]
    run = kernels["joint" if joint else "value"].fit([*examples, *knobs])
    if run is None:
        if not joint and not kernels["value"]:  # not one graph was worth its while, for whatever gradient
            light.always = math.inf
        return None
    places, kind, node = call.tensors, call.kind, Joint if joint else Separate
    recorded = any(x.requires_grad for x in tensors)

    def entry(values: Sequence[Any]) -> Any:
        given = [values[i] for i in places]
        if call.starts:
            results = node.apply(call, run, knobs, *given)  # type: ignore[no-untyped-call]
            return results if joint else results[0] if kind is None else kind(*results)
        for k in call.scattered:
            given[k] = given[k].contiguous()
        if recorded:
            with torch.no_grad():
                results = run(*given, *knobs)
        else:
            results = run(*given, *knobs)
        return results[0] if kind is None else kind(*results)

    return entry


def _is_single(tensors: Sequence[Tensor]) -> bool:
    """Whether this is a batch of one: graphs take no size of one for an open one, and it is not worth another."""
    size = max(x.numel() for x in tensors)
    return size < 2 or (size < LARGE and any(1 in x.shape[:-1] for x in tensors))


def _is_small(tensor: Tensor) -> bool:
    return tensor.numel() < (SMALL if tensor.is_cpu else SMALL_ON_CARD if tensor.is_cuda else 0)


def _is_heavy(tensor: Tensor) -> bool:
    """Whether its gradient should not be scaled when it is there: a card does not say that the scale is one."""
    return tensor.is_cuda and tensor.numel() >= HEAVY


def _wide(tensor: Tensor) -> bool:
    """Whether a saved gradient loses nothing by being scaled later."""
    return tensor.dtype in (torch.float32, torch.float64)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _records() -> bool:
    """Whether a CUDA graph is being recorded."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
