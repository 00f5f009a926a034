"""A whole update as one graph of operators: recorded below autograd while it runs, undone if that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves

from offline_losses._compile.switches import Unsupported


class Trace:
    """The operators of one run, below autograd: of the tensors that existed before, the arguments and the knobs."""

    def __init__(self, run: Callable[..., Any], inputs: Sequence[Tensor]) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx

        def traced(*inner: Tensor) -> list[Tensor]:
            self.result = run(*inner)
            leaves, self.spec = tree_flatten(self.result)
            self.constants = [None if isinstance(x, Tensor) else x for x in leaves]
            self.returned = [i for i, x in enumerate(leaves) if isinstance(x, Tensor)]
            return [x for x in leaves if isinstance(x, Tensor)]

        before, torch.compiler._is_compiling_flag = torch.compiler._is_compiling_flag, True
        try:
            self.module = make_fx(traced, tracing_mode="real")(*inputs)
        finally:
            torch.compiler._is_compiling_flag = before
        self._refuse_open_shapes()
        self.state = self._lift()

    def _refuse_open_shapes(self) -> None:
        """What has as many elements as values decide would keep the number that it had while traced."""
        for node in self.module.graph.nodes:
            if torch.Tag.dynamic_output_shape not in getattr(node.target, "tags", ()):
                continue
            if node.target is torch.ops.aten.index.Tensor:
                kinds = {index.meta["val"].dtype for index in node.args[1] if index is not None}
                if not kinds & {torch.bool, torch.uint8}:
                    continue
            raise Unsupported(f"values decide the shape of what {node.target} returns")

    def _lift(self) -> list[Tensor]:
        """Make arguments of the tensors that the trace holds as constants: parameters, moments, target networks."""
        graph: Graph = self.module.graph
        first = next(iter(graph.nodes))
        places: dict[int, Any] = {}
        state: list[Tensor] = []
        for node in list(graph.nodes):
            node.meta.clear()
            held = getattr(self.module, node.target) if node.op == "get_attr" else None
            if isinstance(held, Tensor):
                if id(held) not in places:
                    with graph.inserting_before(first):
                        places[id(held)] = graph.placeholder(f"state{len(state)}")
                    state.append(held)
                node.replace_all_uses_with(places[id(held)])
                graph.erase_node(node)
        self.module = GraphModule(self.module, graph)  # without the attributes that are arguments now
        return state


class Backup(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers every tensor as it was before an operator first writes into it, gradients, and the random state."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.gradients = [(parameter, parameter.grad) for parameter in parameters]
        self.random = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        self.saved: dict[Any, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for i, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for x in tree_leaves(args[i] if i < len(args) else kwargs.get(argument.name)):
                    key = x.untyped_storage()._cdata, x.storage_offset(), x.shape, x.stride()
                    if key not in self.saved:
                        self.saved[key] = x, torch.ops.aten.clone.default(x)
        return func(*args, **kwargs)

    def restore(self) -> None:
        """Undo what was written."""
        with torch.no_grad():
            for x, copy in reversed(self.saved.values()):
                x.copy_(copy)
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        torch.set_rng_state(self.random)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
