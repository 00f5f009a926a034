"""A whole update as one graph: traced by Dynamo with its backward pass and optimizer steps, and guarded by PyTorch.

Every number, flag, hook, module, attribute and alias that the update reads is guarded, and nothing that it does has
been done when a trace fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from offline_losses._compile.backend import ReadsGradient, compile_whole, gradient_before, result_of_update
from offline_losses._compile.optimizers import TraceableOptimizer, Untraceable
from offline_losses._compile.private import has_gradient_hooks
from offline_losses._compile.reason import caused_by
from offline_losses._compile.tracer import WHOLE, compile_with

GRAPHS = 16
"""How many graphs one update may need for the flags, shapes and objects that it meets."""

IN_A_ROW = 5
"""After so many calls in a row that each had to be compiled, the next one is not."""

UNCHANGED, DROPPED = "unchanged", "dropped"

_dropped: set[int] = set()
"""Parameters whose gradient the last call of some compiled update has not kept, by identity."""


class Untraced(Exception):
    """No graph for this call, and nothing has been done."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(reason)
        self.reason = reason


class _MoreGradients(Exception):
    """A parameter has a gradient that does not come in as an argument yet."""


class Number:
    """Stands for a float among the arguments, which the update gets as a 0-d tensor."""

    def __init__(self, place: int) -> None:
        self.place = place


class Whole:
    """The update as one function, called with the gradients that stand before it, and returning those after it.

    A gradient that its optimizer clears before a new one is made, and steps on, is dropped after the call: to hand it
    out would take its memory anew every time. Where the update turns out to read one, all are kept.
    """

    def __init__(
        self,
        update: Callable[..., Any],
        optimizers: list[TraceableOptimizer],
        keep_gradients: bool,
        modules: dict[int, nn.Module],
        around_trace: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.update, self.optimizers, self.modules = update, optimizers, modules
        self.others: list[Tensor] = []
        self.keep_gradients, self.around_trace = keep_gradients, around_trace
        self.params: list[Tensor] = []
        self.owners: list[TraceableOptimizer | None] = []
        self.ids: set[int] = set()
        self.all_dropped: list[bool] = []
        self.in_a_row = 0
        self._compile()

    def __call__(self, args: Any, kwargs: Any) -> Any:
        self._refresh()
        params, tracer = self.params, self.tracer
        incoming: list[Any] = self.all_dropped
        if not self.ids <= _dropped:
            incoming = [True if id(p) in _dropped else None for p in params]
        before = [p.grad for p in params]
        if any([g is not None for g in before]):  # noqa: C419, the list is faster
            incoming = [
                missing if g is None else g if self.keep_gradients or owner is None else True
                for g, owner, missing in zip(before, self.owners, incoming, strict=True)
            ]
            _set_gradients(params, [None] * len(params))
        numbers, args_, kwargs_ = self._numbers(args, kwargs)
        tracer.traced, tracer.error = False, None
        try:
            for optimizer in self.optimizers:
                optimizer.stand_in()
            result, outgoing, substituted = self.run(incoming, self._tensor(numbers), args_, kwargs_)
        except Exception:
            _set_gradients(params, before)
            if tracer.error is None:
                raise
        finally:
            for optimizer in self.optimizers:
                optimizer.stand_back()
        if tracer.error is not None:
            return self._untraced(tracer.error, args, kwargs)
        if outgoing is not None:
            self._hand_out(before, outgoing)
        elif not self.ids <= _dropped:
            for p in params:
                _drop(p)
        if tracer.traced or self.in_a_row:
            self.in_a_row = self.in_a_row + 1 if tracer.traced else 0
            tracer.settings = {**WHOLE, "error_on_recompile": True} if self.in_a_row >= IN_A_ROW else WHOLE
        if not substituted:
            return result
        lent = dict(pair for optimizer in self.optimizers for group in optimizer.groups for pair in group.stand_ins())
        return tree_map(lambda x: numbers[x.place] if type(x) is Number else lent.get(id(x), x), result)

    def _refresh(self) -> None:
        if any([optimizer.refresh() for optimizer in self.optimizers]):  # noqa: C419, all of them
            self._list_params()
        if has_gradient_hooks(self.params):
            raise Untraceable("a parameter has hooks on its gradient")

    def _list_params(self) -> None:
        owners: dict[int, list[TraceableOptimizer]] = {}
        params = {id(p): p for p in self.others}
        for optimizer in self.optimizers:
            for p in [p for group in optimizer.groups for p in group.params]:
                params[id(p)] = p
                owners.setdefault(id(p), []).append(optimizer)
        self.params[:] = params.values()
        self.ids, self.all_dropped = set(params), [True] * len(params)
        self.owners[:] = [found[0] if len(found := owners.get(key, [])) == 1 else None for key in params]

    @contextmanager
    def _tracing(self) -> Iterator[None]:
        """Before a trace see that every gradient there is comes in as an argument, whoever will step on it."""
        known = {id(p) for p in self.params}
        found = [p for module in self.modules.values() for p in module.parameters(recurse=False)]
        if others := [p for p in found if p.grad is not None and id(p) not in known]:
            self.others += others
            raise _MoreGradients
        with self.around_trace():
            yield

    def _hand_out(self, before: list[Tensor | None], outgoing: list[Any]) -> None:
        for p, old, new in zip(self.params, before, outgoing, strict=True):
            p.grad = old if new is UNCHANGED else None if new is DROPPED else new
            if new is DROPPED:
                _drop(p)
            elif new is not UNCHANGED:
                _dropped.discard(id(p))

    def _compile(self) -> None:
        # optimizers first: where one of two readers of a tensor is an optimizer's own list, Dynamo leaves out the guard
        # that both hold the same one, but not where these lists have been read before
        optimizers, params, owners, keep = self.optimizers, self.params, self.owners, self.keep_gradients
        update = self.update

        def whole(incoming: list[Any], numbers: Tensor | None, args: Any, kwargs: Any) -> Any:
            with torch.no_grad():
                before = [gradient_before(p) if g is True else g for p, g in zip(params, incoming)]  # noqa: B905
            for i in range(len(params)):
                params[i].grad = before[i]
            for optimizer in optimizers:
                optimizer.cleared = optimizer.stepped = False
            values = [] if numbers is None else numbers.unbind()
            given = [values[x.place] if type(x) is Number else x for x in args]
            named = {name: values[x.place] if type(x) is Number else x for name, x in kwargs.items()}
            result = update(*given, **named)
            outgoing: list[Any] = []
            for i in range(len(params)):
                gradient, owner = params[i].grad, owners[i]
                if gradient is before[i]:
                    outgoing.append(UNCHANGED)
                elif gradient is not None and not keep and owner is not None and owner.cleared and owner.stepped:
                    outgoing.append(DROPPED)
                else:
                    outgoing.append(gradient)
                params[i].grad = None
            substituted: list[bool] = []
            rates = [group.settings["lr"] for optimizer in optimizers for group in optimizer.groups]
            result = tree_map(lambda x: _returned(x, values, rates, substituted), result)
            return result, None if all([x is DROPPED for x in outgoing]) else outgoing, bool(substituted)  # noqa: C419

        self.run, self.tracer = compile_with(compile_whole, whole, WHOLE, whole=True, limit=GRAPHS)
        self.tracer.around = self._tracing

    def _untraced(self, error: Exception, args: Any, kwargs: Any) -> Any:
        if isinstance(error, _MoreGradients):
            self._list_params()
            return self(args, kwargs)
        if not caused_by(error, ReadsGradient):
            raise Untraced(error) from error
        if self.keep_gradients:
            raise RuntimeError(
                "compile_update: gradients: expected an update that clears them first, as earlier calls did, got one "
                "that adds to what they left, which was not kept. Pass keep_gradients=True to compile_update."
            ) from None
        self.keep_gradients = True
        self._compile()
        return self(args, kwargs)

    def _numbers(self, args: Any, kwargs: Any) -> tuple[list[float], Any, Any]:
        """Floats among the arguments, and the arguments without them; containers are the caller's own.

        With parameters of 16 bits floats stay floats: a tensor would raise the dtype of what it is multiplied with.
        """
        numbers: list[float] = []
        if float not in map(type, args) and float not in map(type, kwargs.values()):
            return numbers, args, kwargs

        def taken(x: Any) -> Any:
            if type(x) is not float:
                return x
            numbers.append(x)
            return Number(len(numbers) - 1)

        if any([p.dtype in (torch.float16, torch.bfloat16) for p in self.params]):  # noqa: C419
            return numbers, args, kwargs
        return numbers, tuple(map(taken, args)), {name: taken(x) for name, x in kwargs.items()}

    def _tensor(self, numbers: list[float]) -> Tensor | None:
        if not numbers:
            return None
        dtype = torch.float64 if any(p.dtype == torch.float64 for p in self.params) else torch.float32
        return torch.tensor(numbers, dtype=dtype, device=self.params[0].device if self.params else None)


def _returned(x: Any, values: Sequence[Tensor], rates: Sequence[Any], substituted: list[bool]) -> Any:
    """A result as it is handed out; what was a float comes back as one."""
    for place in range(len(values)):
        if x is values[place]:
            substituted.append(True)
            return Number(place)
    if isinstance(x, Tensor) and any([x is rate for rate in rates]):  # noqa: C419
        substituted.append(True)
        return x
    return result_of_update(x.detach()) if isinstance(x, Tensor) else x


def _drop(p: Tensor) -> None:
    if id(p) not in _dropped:
        _dropped.add(id(p))
        finalize(p, _dropped.discard, id(p))


def _set_gradients(params: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    for p, gradient in zip(params, gradients, strict=True):
        p.grad = gradient
