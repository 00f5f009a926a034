"""Every name of PyTorch that is not documented, and nothing but them.

The next version may lack any. They are looked for when code is to be generated, never at import; where one is missing,
the functions run eagerly and say which.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib import import_module
from threading import RLock
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


class Missing(Exception):
    """A name that this version of PyTorch has not."""


class Names:
    """Names for one purpose, each found when it is first asked for."""

    def __init__(self, **paths: str) -> None:
        self.paths = paths

    def __getattr__(self, name: str) -> Any:
        if name not in self.paths:
            raise AttributeError(name)
        found = _find(self.paths[name])
        setattr(self, name, found)
        return found

    def missing(self) -> str | None:
        """Why none of these may be used, if one is missing."""
        try:
            for name in self.paths:
                getattr(self, name)
        except Missing as reason:
            return str(reason)
        return None


def _find(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        raise Missing(f"PyTorch {torch.__version__} has no {module}.{name}") from None
    return found


CALL = Names(
    are_transforms_active="torch:_C._are_functorch_transforms_active",
    count_dispatch_modes="torch:_C._len_torch_dispatch_stack",
    forward_level="torch.autograd.forward_ad:_current_level",
    TorchDispatchMode="torch.utils._python_dispatch:TorchDispatchMode",
    is_batched="torch:_C._functorch.is_batchedtensor",
    is_legacy_batched="torch:_C._functorch.is_legacy_batchedtensor",
    version="torch:Tensor._version",
    is_view="torch:Tensor._is_view",
    unsafe_view="torch:ops.aten._unsafe_view.default",
)
"""What a call asks before it takes generated code, and what its way through autograd needs."""

COMPILER = Names(
    enable_python_dispatcher="torch._dispatch.python:enable_python_dispatcher",
    ConstantSource="torch._dynamo.source:ConstantSource",
    stance="torch._dynamo.eval_frame:_stance.stance",
    fx_graph_cse="torch._functorch.compile_utils:fx_graph_cse",
    TracingContext="torch._guards:TracingContext",
    tracing="torch._guards:tracing",
    config="torch._inductor:config",
    WrapperCodegen="torch._inductor.codegen.wrapper:PythonWrapperCodegen",
    compile_fx_inner="torch._inductor.compile_fx:compile_fx_inner",
    select_decomp_table="torch._inductor.decomposition:select_decomp_table",
    FakeTensorMode="torch._subclasses.fake_tensor:FakeTensorMode",
    make_fx="torch.fx.experimental.proxy_tensor:make_fx",
    DimDynamic="torch.fx.experimental.symbolic_shapes:DimDynamic",
    ShapeEnv="torch.fx.experimental.symbolic_shapes:ShapeEnv",
    StatelessSymbolicContext="torch.fx.experimental.symbolic_shapes:StatelessSymbolicContext",
)
"""What turns a function into generated code."""


@cache
def missing_for_calls() -> str | None:
    """Why no call may take generated code."""
    return CALL.missing()


def is_transforming() -> bool:
    """Whether a transform of `torch.func` is active, or may be; also while a compiler reads this."""
    active = getattr(torch._C, "_are_functorch_transforms_active", None)
    return active is None or bool(active())


def wants_operators() -> bool:
    """Whether a transform, forward-mode differentiation or a dispatch mode wants to see the single operators."""
    return (
        CALL.are_transforms_active() or CALL.count_dispatch_modes() > 0 or getattr(forward_ad, "_current_level", 0) >= 0
    )


def version(tensor: Tensor) -> int:
    """How often a tensor has been written into."""
    return int(tensor._version)


def stance() -> str:
    """What `torch.compiler.set_stance` was told, without importing the compiler to ask."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    return str(getattr(getattr(dynamo, "_stance", None), "stance", "default"))


def needs_size_asserts() -> bool:
    """Whether generated code knows only sizes that it checks, as from PyTorch 2.15 on; callers have checked them."""
    return hasattr(COMPILER.WrapperCodegen, "bind_input_symbol")


def callable_inside(code: Any) -> Any:
    """Of a compiled graph what it calls in the end: all around it serves caches of its first call."""
    return getattr(code, "current_callable", None) or code


UPDATE = Names(
    optimize="torch._dynamo:optimize",
    optimize_parts="torch._dynamo.eval_frame:_optimize",
    config="torch._dynamo:config",
    compile_fx="torch._inductor.compile_fx:compile_fx",
    RestartAnalysis="torch._dynamo.exc:RestartAnalysis",
    RandomVariable="torch._dynamo.variables:RandomVariable",
    OptimizerVariable="torch._dynamo.variables.optimizer:OptimizerVariable",
    set_attribute="torch._dynamo.variables.optimizer:OptimizerVariable.method_setattr_standard",
    Unsupported="torch._dynamo.exc:Unsupported",
    step_pre_hooks="torch.optim.optimizer:_global_optimizer_pre_hooks",
    step_post_hooks="torch.optim.optimizer:_global_optimizer_post_hooks",
)
"""What compiles an update, in parts at least."""

BACKWARD = Names(
    trace_backward="torch._dynamo.config:trace_autograd_ops",
    skip_hook_guards="torch._dynamo.config:skip_nnmodule_hook_guards",
    tensor_hooks="torch:Tensor._backward_hooks",
    post_accumulate_hooks="torch:Tensor._post_accumulate_grad_hooks",
)
"""What compiles a whole update, its backward pass included: PyTorch 2.13 and later."""

CARD = Names(
    config="torch._inductor:config",
    CustomGraphPass="torch._inductor.custom_graph_pass:CustomGraphPass",
    get_hash_for_files="torch._inductor.custom_graph_pass:get_hash_for_files",
    stable_topological_sort="torch._inductor.pattern_matcher:stable_topological_sort",
)
"""What joins the products of an update on a card."""

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
def _replaced(kind: Any, name: str, value: Any) -> Iterator[None]:
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

    return _replaced(kind, "create", staticmethod(create))


def _no_generators_of_python() -> AbstractContextManager[None]:
    """Do not trace what Python's generators of random numbers draw: some of it would be a constant of the graph."""
    return _replaced(UPDATE.RandomVariable, "is_supported_random_obj", staticmethod(lambda generator: False))


def _no_attributes_of_optimizers() -> AbstractContextManager[None]:
    """Do not trace what sets an attribute of an optimizer: Dynamo takes note of it, and then never does it."""

    def refuse(self: Any, *_: Any, **__: Any) -> None:
        raise UPDATE.Unsupported(f"an attribute of an optimizer ({type(self.value).__name__}) is set")

    return _replaced(UPDATE.OptimizerVariable, "method_setattr_standard", refuse)


def forget_static(tensors: Iterable[Any]) -> None:
    """Undo that these are static inputs, as which Dynamo marks what it finds in the groups of an optimizer.

    It no longer takes them for inputs then, and `backward()` would find nothing to compute a gradient of.
    """
    for x in tensors:
        vars(x).pop("_dynamo_static_input_type", None)


def hooks_of_optimizer(optimizer: Any) -> bool:
    """Whether something runs before or after its steps."""
    names = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
    return any(getattr(optimizer, name, None) for name in names) or bool(
        UPDATE.step_pre_hooks or UPDATE.step_post_hooks
    )


def has_gradient_hooks(tensors: Iterable[Any]) -> bool:
    """Whether something runs when a gradient of these is computed."""
    return any([x._backward_hooks or x._post_accumulate_grad_hooks for x in tensors])  # noqa: C419
