"""One way of calling a function, and how its generated code enters autograd."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from offline_losses._compile import private
from offline_losses._compile.graph import Graph, Graphs, Unsupported, say
from offline_losses._core.reduce import keeping


class Call:
    """Which arguments are tensors and which knobs, what comes back, and what has a gradient.

    It keeps the arguments that are no tensors, and of the tensors only where they go.
    """

    gradients: Graphs
    scattered: list[int]
    gradient_graph: Graph | None = None

    def __init__(
        self, function: Callable[..., Any], parameters: Sequence[inspect.Parameter], values: Sequence[Any]
    ) -> None:
        self.function = function
        self.names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        self.tensors = [i for i, value in enumerate(values) if isinstance(value, Tensor)]
        self.knobs = [i for i, p in enumerate(parameters) if p.annotation == "Knob" and i not in self.tensors]
        self.others: list[Any] = [None if i in self.tensors else value for i, value in enumerate(values)]
        self._outline([values[i] for i in self.tensors])

    def _outline(self, tensors: Sequence[Tensor]) -> None:
        """Run on the meta device, which raises the function's own errors and costs no arithmetic."""
        meta = [torch.empty_like(x, device="meta", requires_grad=x.requires_grad) for x in tensors]
        with _counter()() as count, keeping() as kept:
            result = self._evaluate(meta)
        self.operators, self.kept = count.total, len(kept)
        leaves = _leaves(result)
        self.kind = None if isinstance(result, Tensor) else type(result)
        self.dtypes, self.scalar = [leaf.dtype for leaf in leaves], len(leaves) == 1 and leaves[0].dim() == 0
        self.flows = [leaf.requires_grad for leaf in leaves]
        ends = [leaf for leaf in leaves if leaf.requires_grad]
        wanted = [k for k, x in enumerate(meta) if x.requires_grad] if ends else []
        ones = [torch.ones_like(end) for end in ends]
        found = torch.autograd.grad(ends, [meta[k] for k in wanted], ones, allow_unused=True) if wanted else ()
        self.starts = [k for k, gradient in zip(wanted, found, strict=True) if gradient is not None]
        # for each tensor the place of its gradient among all gradients, or None
        self.places = [self.starts.index(k) if k in self.starts else None for k in range(len(meta))]

    def eager(self, values: Sequence[Any]) -> Any:
        """The function itself."""
        positional = len(values) - len(self.names)
        return self.function(*values[:positional], **dict(zip(self.names, values[positional:], strict=True)))

    def _evaluate(self, tensors: Sequence[Tensor], knobs: Sequence[Tensor] | None = None) -> Any:
        values = list(self.others)
        for place, x in zip(self.tensors, tensors, strict=True):
            values[place] = x
        if knobs is not None:
            for place, x in zip(self.knobs, knobs, strict=True):
                values[place] = x
        return self.eager(values)

    def value(self, *flat: Tensor) -> list[Tensor]:
        """Of tensors and knobs: the results."""
        count = len(self.tensors)
        leaves = _leaves(self._evaluate(flat[:count], flat[count:]))
        return [leaf.to(dtype) for leaf, dtype in zip(leaves, self.dtypes, strict=True)]

    def forward(self, *flat: Tensor) -> list[Tensor]:
        """Of tensors and knobs: the results, and what the formula wants to be kept for the gradient."""
        with keeping() as kept:
            results = self.value(*flat)
        return [*results, *kept]

    def gradient(self, *flat: Tensor) -> Sequence[Tensor]:
        """Of tensors, knobs, upstream gradients, results and what was kept: these two, and the tensors' gradients."""
        count = len(self.tensors) + len(self.knobs)
        with keeping() as kept:
            results, gradients = self._both(flat[:count], flat[count : count + sum(self.flows)])
        return [*results, *(x.detach() for x in kept), *gradients]

    def joint(self, *flat: Tensor) -> Sequence[Tensor]:
        """Of tensors and knobs: the gradients of a 0-d result, and the result.

        In this order, and the result computed anew after them, since Inductor takes a sum into the loop of what
        precedes it, not the reverse.
        """
        _, gradients = self._both(flat, [torch.ones((), dtype=self.dtypes[0], device=flat[0].device)])
        return [*gradients, *self.value(*flat)]

    def _both(self, flat: Sequence[Tensor], upstream: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Of tensors and knobs: the results, and the gradients of the tensors that have one."""
        inner = [x.detach().requires_grad_() if k in self.starts else x for k, x in enumerate(flat)]
        with torch.enable_grad():
            results = self.value(*inner)
        ends = [end for end, flows in zip(results, self.flows, strict=True) if flows]
        return results, torch.autograd.grad(ends, [inner[k] for k in self.starts], upstream)

    def again(self, tensors: Sequence[Tensor], upstream: Sequence[Tensor]) -> Sequence[Tensor]:
        """The gradients by autograd, themselves differentiable where it records."""
        recorded = torch.is_grad_enabled()
        with torch.enable_grad():
            inner = [
                x if recorded or k not in self.starts else x.detach().requires_grad_() for k, x in enumerate(tensors)
            ]
            ends = [end for end, flows in zip(_leaves(self._evaluate(inner)), self.flows, strict=True) if flows]
            return torch.autograd.grad(ends, [inner[k] for k in self.starts], upstream, create_graph=recorded)

    def contiguous(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors as the generated code reads them."""
        return [x.contiguous() if k in self.scattered else x for k, x in enumerate(tensors)]

    def placed(self, gradients: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        """One gradient or None for each argument of a node: the call, its graph, its knobs, and the tensors."""
        return (None, None, None, *[None if i is None else gradients[i] for i in self.places])


class Joint(Function):
    """A 0-d result whose gradients were computed with it: the backward pass scales them, if by anything but one."""

    @staticmethod
    def forward(ctx: Any, call: Call, run: Graph, knobs: list[Tensor], *tensors: Tensor) -> Tensor:
        *gradients, value = run(*(call.contiguous(tensors) if call.scattered else tensors), *knobs)
        ctx.call = call
        ctx.save_for_backward(*gradients, *tensors)
        return value

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> Any:
        call, saved = ctx.call, ctx.saved_tensors
        count = len(call.starts)
        if torch.is_grad_enabled():
            return call.placed(call.again(saved[count:], [scale]))
        if scale.is_cpu and _is_one(scale):  # elsewhere a look at it would wait for the device
            return call.placed(saved)
        return call.placed([_scaled(gradient, scale) for gradient in saved[:count]])


class Separate(Function):
    """Results of any shape: their gradients are one more graph, of the inputs, the results and what was kept.

    A result may be overwritten, as one of the function itself may: it is kept beside autograd, with its version.
    """

    @staticmethod
    def forward(ctx: Any, call: Call, run: Graph, knobs: list[Tensor], *tensors: Tensor) -> tuple[Tensor, ...]:
        found = run(*(call.contiguous(tensors) if call.scattered else tensors), *knobs)
        results = tuple(map(_no_view, found[: len(call.flows)]))
        ctx.call, ctx.knobs = call, knobs
        ctx.results = [(x.detach(), x._version) for x in results]
        ctx.save_for_backward(*tensors, *found[len(call.flows) :])
        ctx.mark_non_differentiable(*(x for x, flows in zip(results, call.flows, strict=True) if not flows))
        return results

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        call, saved = ctx.call, ctx.saved_tensors
        tensors, kept = saved[: len(call.tensors)], saved[len(call.tensors) :]
        given = [x for x, flows in zip(upstream, call.flows, strict=True) if flows]
        overwritten = any(x._version != version for x, version in ctx.results)
        if torch.is_grad_enabled() or overwritten or any(map(_is_batched, given)):
            return call.placed(call.again(tensors, given))
        results = [x for x, _ in ctx.results]
        inputs = [*call.contiguous(tensors), *ctx.knobs, *(x.contiguous() for x in (*given, *results, *kept))]
        if call.gradient_graph is None:
            try:
                call.gradient_graph = call.gradients.fit(inputs)
            except Unsupported as reason:
                say(str(reason))
        return call.placed(call.gradient_graph(*inputs) if call.gradient_graph else call.again(tensors, given))


@cache
def _counter() -> Any:
    """The mode that counts the operators that compute something."""

    class Count(private.CALL.TorchDispatchMode):  # type: ignore[misc, name-defined]
        total = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.total += not func.is_view
            return func(*args, **(kwargs or {}))

    return Count


def _is_one(x: Tensor) -> bool:
    try:
        return x.item() == 1.0
    except RuntimeError:  # a batch of gradients cannot be looked at
        return False


def _scaled(gradient: Tensor, scale: Tensor) -> Tensor:
    """The product; of a gradient that is one number everywhere, the product with this number."""
    if gradient.dim() and not any(gradient.stride()):
        return (gradient[(0,) * gradient.dim()] * scale).expand(gradient.shape)
    return gradient * scale


def _no_view(x: Tensor) -> Tensor:
    """The same memory as a tensor of its own, which autograd lets be overwritten."""
    if not private.CALL.is_view(x):
        return x
    whole: Tensor = private.CALL.unsafe_view(x, x.shape)
    return whole


def _is_batched(x: Tensor) -> bool:
    """Whether `is_grads_batched` maps the backward pass over it."""
    return bool(private.CALL.is_legacy_batched(x) or private.CALL.is_batched(x))


def _leaves(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)
