"""How Dynamo traces an update: under which settings, and with which of its ways corrected meanwhile."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import RLock
from typing import Any

import torch

from offline_losses._compile.private import UPDATE

WHOLE = {
    "trace_autograd_ops": True,  # never without `fullgraph`: after a graph break `backward()` would do nothing
    "skip_nnmodule_hook_guards": False,
    "allow_unspec_int_on_nn_module": True,
    "use_numpy_random_stream": True,
    "fail_on_recompile_limit_hit": True,
    "specialize_float": True,
}
"""How Dynamo traces a whole update."""

PARTS = {
    name: value for name, value in WHOLE.items() if name not in ("trace_autograd_ops", "fail_on_recompile_limit_hit")
}
"""How Dynamo traces an update with graph breaks."""


_tracing = RLock()
"""Settings are of the process: one trace at a time."""


class Tracer:
    """Dynamo's callback for code that no guard admits, with settings that hold while it traces."""

    def __init__(self, inner: Any, settings: dict[str, Any]) -> None:
        self._torchdynamo_orig_backend = inner
        self.settings = settings
        self.around: Callable[[], AbstractContextManager[Any]] = nullcontext
        self.traced = False
        self.error: Exception | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.traced = True
        try:
            changed = _constants_of_their_own(), _no_generators_of_python(), _no_attributes_of_optimizers()
            with _tracing, self.around(), UPDATE.config.patch(self.settings), changed[0], changed[1], changed[2]:
                return self._torchdynamo_orig_backend(*args, **kwargs)
        except Exception as error:
            self.error = error
            raise


def compile_with(backend: Any, function: Any, settings: dict[str, Any], whole: bool, limit: int) -> tuple[Any, Tracer]:
    """The function as `torch.compile` makes it, traced under these settings, and what traces it."""
    known = inspect.signature(UPDATE.optimize_parts).parameters
    options = {"nopython": whole, "recompile_limit": limit, "isolate_recompiles": True}
    context = UPDATE.optimize(backend, **{name: value for name, value in options.items() if name in known})
    settings = {name: value for name, value in settings.items() if hasattr(UPDATE.config, name)}
    context.callback = tracer = Tracer(context.callback, settings)
    return context(function), tracer


@contextmanager
def replaced(kind: Any, name: str, value: Any) -> Iterator[None]:
    own = vars(kind).get(name)
    setattr(kind, name, value)
    try:
        yield
    finally:
        delattr(kind, name)
        if own is not None:  # it was not inherited
            setattr(kind, name, own)


def _constants_of_their_own() -> AbstractContextManager[None]:
    """Let None, True and False be objects of one trace.

    PyTorch 2.13 and 2.14 share them between all traces and write into them where a value came from, `p.grad` for
    instance: a None that is returned or stored later is then read from there.
    """
    constants = sys.modules["torch._dynamo.variables.constant"]
    if not hasattr(constants, "CONSTANT_VARIABLE_NONE") or not torch.__version__.startswith(("2.13.", "2.14.")):
        return nullcontext()
    kind = constants.ConstantVariable
    shared = kind.create

    def create(value: Any, **kwargs: Any) -> Any:
        own = (value is None or value is True or value is False) and not kwargs
        return kind(value) if own else shared(value, **kwargs)

    return replaced(kind, "create", staticmethod(create))


def _no_generators_of_python() -> AbstractContextManager[None]:
    """Do not trace what Python's generators of random numbers draw: some of it would be a constant of the graph."""
    return replaced(UPDATE.RandomVariable, "is_supported_random_obj", staticmethod(lambda generator: False))


def _no_attributes_of_optimizers() -> AbstractContextManager[None]:
    """Do not trace what sets an attribute of an optimizer: Dynamo takes note of it, and then never does it."""

    def refuse(self: Any, *_: Any, **__: Any) -> None:
        raise UPDATE.Unsupported(f"an attribute of an optimizer ({type(self.value).__name__}) is set")

    return replaced(UPDATE.OptimizerVariable, "method_setattr_standard", refuse)
