"""One way of calling a function, and how its generated code enters autograd."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from offline_losses._compile import private
from offline_losses._compile.graph import Graph
from offline_losses._core.tracing import nonzero


class Call:
    """Which arguments are tensors and which hyper-parameters, what comes back, and which tensors get a gradient.

    It keeps the arguments that are no tensors, and of the tensors only where they go. With `chosen`, only these of the
    function's results are computed.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        parameters: Sequence[inspect.Parameter],
        values: Sequence[Any],
        chosen: Sequence[int] | None = None,
    ) -> None:
        self.function = function
        self.keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        self.tensors = [i for i, value in enumerate(values) if isinstance(value, Tensor)]
        self.knobs = [
            i
            for i, (p, value) in enumerate(zip(parameters, values, strict=True))
            if "Knob" in str(p.annotation) and i not in self.tensors and value  # zero has formulas of its own
        ]
        self.strided = [k for k, i in enumerate(self.tensors) if not values[i].is_contiguous()]
        self.others: list[Any] = [None if i in self.tensors else value for i, value in enumerate(values)]
        self._outline([values[i] for i in self.tensors], chosen)

    def _outline(self, tensors: Sequence[Tensor], chosen: Sequence[int] | None) -> None:
        """Run on the meta device, which raises the function's own errors and costs no arithmetic."""
        meta = [torch.empty_like(x, device="meta", requires_grad=x.requires_grad) for x in tensors]
        with _counter()() as count:
            result = self.eager(self._filled(meta))
            results = _tensors(result)
            reached = [_reached(x, meta) for x in results]
        self.operators: Counter[Any] = count.found
        self.kind = None if isinstance(result, Tensor) else type(result)
        self.groups = [[i for i, found in enumerate(reached) if found == wrt] for wrt in dict.fromkeys(reached)]
        """The results by the tensors that they have a gradient for."""
        self.apart = {k for found in reached for k in found if not all(k in other for other in reached)}
        """The tensors that some result has no gradient for."""
        self.chosen = range(len(results)) if chosen is None else chosen
        self.dtypes = [results[i].dtype for i in self.chosen]
        self.numbers = all(x.dim() == 0 for x in results)
        self.scalar = len(self.dtypes) == 1 and results[self.chosen[0]].dim() == 0
        self.differentiable = [results[i].requires_grad for i in self.chosen]
        self.reached = [reached[i] for i in self.chosen if results[i].requires_grad]
        self.wrt = sorted({k for found in self.reached for k in found})
        # for each tensor where its gradient is among all gradients, or None
        self.order = [self.wrt.index(k) if k in self.wrt else None for k in range(len(meta))]

    def _filled(self, flat: Sequence[Tensor]) -> list[Any]:
        """All arguments, of tensors and, where they are tensors too, hyper-parameters."""
        values = list(self.others)
        for place, x in zip([*self.tensors, *self.knobs], flat, strict=False):
            values[place] = x
        return values

    def eager(self, values: Sequence[Any]) -> Any:
        """The function itself."""
        positional = len(values) - len(self.keywords)
        return self.function(*values[:positional], **dict(zip(self.keywords, values[positional:], strict=True)))

    def value(self, *flat: Tensor) -> list[Tensor]:
        """Of tensors and knobs: the results."""
        with nonzero(flat[len(self.tensors) :]):
            results = _tensors(self.eager(self._filled(flat)))
        return [results[i].to(dtype) for i, dtype in zip(self.chosen, self.dtypes, strict=True)]

    def value_and_gradients(self, *flat: Tensor) -> list[Tensor]:
        """Of tensors, knobs and upstream gradients: the results, and the gradients of the tensors that have one."""
        count = len(self.tensors) + len(self.knobs)
        inner = [x.detach().requires_grad_() if k in self.wrt else x for k, x in enumerate(flat[:count])]
        with torch.enable_grad():
            results = self.value(*inner)
        gradients = torch.autograd.grad(self._differentiable(results), [inner[k] for k in self.wrt], flat[count:])
        return [*(x.detach() for x in results), *gradients]

    def gradients_and_loss(self, *flat: Tensor) -> list[Tensor]:
        """Of tensors and knobs: the gradients of a 0-d result, and the result.

        In this order, and the result computed anew after them, since Inductor takes a sum into the loop of what
        precedes it, not the reverse.
        """
        one = torch.ones((), dtype=self.dtypes[0], device=flat[0].device)
        return [*self.value_and_gradients(*flat, one)[1:], *self.value(*flat)]

    def by_autograd(self, tensors: Sequence[Tensor], upstream: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The gradients without generated code, themselves differentiable where autograd records."""
        records, wrt = torch.is_grad_enabled(), self.wrt_from(upstream)
        if not wrt:
            return [None for _ in self.wrt]
        with torch.enable_grad():
            # as views: their gradient runs no hook of the tensor, and a transform lets no other leaf be made
            inner = [x.view_as(x) if k in wrt else x for k, x in enumerate(tensors)]
            results = _tensors(self.eager(self._filled(inner)))
            ends = zip(self._differentiable([results[i] for i in self.chosen]), upstream, strict=True)
            given = [(end, x) for end, x in ends if x is not None]
            outputs, grads = [end for end, _ in given], [x for _, x in given]
            found = torch.autograd.grad(outputs, [inner[k] for k in wrt], grads, create_graph=records)
        gradients = dict(zip(wrt, found, strict=True))
        return [gradients.get(k) for k in self.wrt]

    def wrt_from(self, upstream: Sequence[Tensor | None]) -> list[int]:
        """The tensors that have a gradient where these results have one."""
        reached = {k for found, x in zip(self.reached, upstream, strict=True) if x is not None for k in found}
        return [k for k in self.wrt if k in reached]

    def _differentiable(self, results: Sequence[Any]) -> list[Any]:
        return [x for x, flag in zip(results, self.differentiable, strict=True) if flag]

    def contiguous(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """The tensors as generated code reads them."""
        return [x.contiguous() if k in self.strided else x for k, x in enumerate(tensors)] if self.strided else tensors

    def for_autograd(self, gradients: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
        """One gradient or None for each argument of a node: the call, its graph, its knobs, and the tensors."""
        return (None, None, None, *[None if i is None else gradients[i] for i in self.order])


class LossNode(Function):
    """A 0-d result whose gradients were computed with it: the backward pass scales them, if by anything but one."""

    @staticmethod
    def forward(ctx: Any, call: Call, graph: Graph, knobs: list[Tensor], *tensors: Tensor) -> Tensor:
        *ctx.gradients, value = graph(*call.contiguous(tensors), *knobs)
        ctx.call = call
        ctx.save_for_backward(*tensors)
        return value

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> Any:
        call = ctx.call
        gradients, ctx.gradients = ctx.gradients, None  # given away once: who gets them may write into them
        if torch.is_grad_enabled() or gradients is None:
            return call.for_autograd(call.by_autograd(ctx.saved_tensors, [scale]))
        if scale.is_cpu and _is_one(scale):  # elsewhere a look at it would wait for the device
            return call.for_autograd(gradients)
        return call.for_autograd([gradient * scale for gradient in gradients])


class ResultNode(Function):
    """Results of any shape: their gradients are one more graph, of the inputs, the results and what was kept.

    A tensor of which no result has been differentiated gets no gradient, as from the function itself.

    A result may be overwritten, as one of the function itself may: it is kept beside autograd, with its version.
    """

    @staticmethod
    def forward(ctx: Any, call: Call, graph: Graph, knobs: list[Tensor], *tensors: Tensor) -> tuple[Tensor, ...]:
        found, count = graph(*call.contiguous(tensors), *knobs), len(call.dtypes)
        results = tuple(map(_no_view, found[:count]))
        ctx.set_materialize_grads(False)
        ctx.call, ctx.graph, ctx.knobs = call, graph, knobs
        ctx.results = [(x.detach(), private.version(x)) for x in results]
        ctx.save_for_backward(*tensors, *found[count:])
        ctx.mark_non_differentiable(*(x for x, flag in zip(results, call.differentiable, strict=True) if not flag))
        return results

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        call, saved = ctx.call, ctx.saved_tensors
        tensors, kept = saved[: len(call.tensors)], saved[len(call.tensors) :]
        results = [x for x, _ in ctx.results]
        ends = [(x, end) for x, end, flag in zip(upstream, results, call.differentiable, strict=True) if flag]
        given = [x for x, _ in ends]
        overwritten = any(private.version(x) != version for x, version in ctx.results)
        if not (torch.is_grad_enabled() or overwritten or any(x is not None and _is_batched(x) for x in given)):
            whole = [torch.zeros_like(end) if x is None else x for x, end in ends]
            inputs = [x.contiguous() for x in (*whole, *results, *kept)]
            gradients = ctx.graph.gradients(*call.contiguous(tensors), *ctx.knobs, *inputs)
            if gradients is not None:
                wrt = call.wrt_from(given)
                return call.for_autograd([x if k in wrt else None for k, x in zip(call.wrt, gradients, strict=True)])
        return call.for_autograd(call.by_autograd(tensors, given))


@cache
def _counter() -> Any:
    """The mode that counts the operators that compute something."""

    class Count(private.CALL.TorchDispatchMode):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.found: Counter[Any] = Counter()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if not func.is_view:
                self.found[func.overloadpacket] += 1
            return func(*args, **(kwargs or {}))

    return Count


def _reached(result: Tensor, tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """The tensors that this result has a gradient for."""
    wanted = [k for k, x in enumerate(tensors) if x.requires_grad]
    if not result.requires_grad or not wanted:
        return ()
    one, inputs = torch.ones_like(result), [tensors[k] for k in wanted]
    gradients = torch.autograd.grad(result, inputs, one, retain_graph=True, allow_unused=True)
    return tuple(k for k, gradient in zip(wanted, gradients, strict=True) if gradient is not None)


def _is_one(x: Tensor) -> bool:
    try:
        return x.item() == 1.0
    except RuntimeError:  # a batch of gradients cannot be looked at
        return False


def _no_view(x: Tensor) -> Tensor:
    """The same memory as a tensor of its own, which autograd lets be overwritten."""
    if not private.CALL.is_view(x):
        return x
    whole: Tensor = private.CALL.unsafe_view(x, x.shape)
    return whole


def _is_batched(x: Tensor) -> bool:
    """Whether `is_grads_batched` maps the backward pass over it."""
    return bool(private.CALL.is_legacy_batched(x) or private.CALL.is_batched(x))


def _tensors(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)
