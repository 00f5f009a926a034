"""Every name of PyTorch that is not documented, and nothing but them.

The next version may lack any. They are looked for when code is to be generated, never at import; where one is missing,
the functions run eagerly and say which.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache
from importlib import import_module
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
        for part in name.split(".") if name else ():
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

KERNELS = Names(
    AsyncCompile="torch._inductor.async_compile:AsyncCompile",
    CppPythonBindingsCodeCache="torch._inductor.codecache:CppPythonBindingsCodeCache",
    get_compile_threads="torch._inductor.async_compile:get_compile_threads",
    cpu_vec_isa="torch._inductor.cpu_vec_isa",
    isa_checker="torch._inductor.cpu_vec_isa:x86_isa_checker",
    isa_list="torch._inductor.cpu_vec_isa:supported_vec_isa_list",
    valid_isa_list="torch._inductor.cpu_vec_isa:valid_vec_isa_list",
)
"""What compiles the kernels of an update together."""

CARD = Names(
    config="torch._inductor:config",
    CustomGraphPass="torch._inductor.custom_graph_pass:CustomGraphPass",
    get_hash_for_files="torch._inductor.custom_graph_pass:get_hash_for_files",
    stable_topological_sort="torch._inductor.pattern_matcher:stable_topological_sort",
)
"""What joins the products of an update on a card."""


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
