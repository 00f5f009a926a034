"""One function as generated code: traced once, compiled by TorchInductor, and called without the guards of Dynamo.

`torch.compile` checks its guards on every call, which costs a small loss more than its arithmetic. A `Graph` is traced
with unknown sizes and called directly; whoever holds it asks `fits` first, once for each new set of shapes.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from offline_losses._compile import private
from offline_losses._compile.passes import add_in_double, count_as_numbers, expand_last, read_as_numbers, read_results
from offline_losses._core.tracing import tracing

GRAPHS = 8
"""How many graphs one function may need for the shapes it meets before the next ones run eagerly."""

LARGE = 2**15
"""From this many elements on a graph is laid out for much work: for threads, or the blocks of a card."""

LARGEST = 2**23
"""From this many elements on a sum has blocks enough for any card."""

SHAPES = 4096
"""How many sets of shapes are remembered together with what runs them."""

_one_at_a_time = RLock()
said: set[str] = set()


class Unsupported(Exception):
    """No generated code for this call; the message says why."""


class NotWorthIt(Exception):
    """Generated code would be slower than the operators."""


_SLOW = (torch.ops.aten.scatter_add.default, torch.ops.aten.cummax.default, torch.ops.aten.argmax.default)
"""What Inductor's loops for the CPU take several times longer for than PyTorch's own."""


_WHOLE = dict.fromkeys(("realize_opcount_threshold", "realize_reads_threshold", "realize_acc_reads_threshold"), 10**6)
"""So that Inductor writes nothing to memory between the steps of a row."""


def switched_off() -> str | None:
    """Why nothing may be compiled now, if that is so."""
    switches = ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE")
    if switch := next((name for name in switches if os.environ.get(name) == "1"), None):
        return f"{switch}=1 switches the compiler off"
    if private.stance() == "force_eager":
        return 'torch.compiler.set_stance("force_eager") is in force'
    return private.missing_for_calls()


def say(reason: str) -> None:
    """Tell once why functions run eagerly."""
    if reason not in said:
        said.add(reason)
        warnings.warn(f"offline_losses.fused runs eagerly: {reason}.", stacklevel=4)


def size_class(tensors: Sequence[Tensor]) -> tuple[int, int]:
    """What the loops of a graph are laid out for: little work or much, and so many threads.

    On a card a sum keeps the number of blocks that it was compiled with, so that there each class ends at four times
    the elements with which it begins.
    """
    elements, threads = max(tensor.numel() for tensor in tensors), torch.get_num_threads()
    if elements < LARGE:
        return 0, threads
    if any(tensor.is_cuda for tensor in tensors):
        return 1 + int(math.log2(min(elements, LARGEST) / LARGE)) // 2, threads
    return 1, threads


def first_line(error: Exception) -> str:
    """What went wrong, in one line."""
    return next(iter(str(error).splitlines()), "")[:200]


class Graph:
    """A pure function of tensors, compiled for their dtypes, ranks and device, with their sizes left open.

    With `fixed` the last of two or more axes keeps its length, in the inputs that have the most axes. The last `known`
    inputs are what the function returns first: the graph reads them there, and returns the rest. What is `sequential`
    takes steps in a row: on the CPU its loops read flags as they are, the faster way for flags that are seldom True,
    and on a card a row is not cut into several kernels.
    """

    def __init__(
        self,
        function: Callable[..., Sequence[Tensor]],
        examples: Sequence[Tensor],
        fixed: bool,
        known: int,
        sequential: bool,
    ) -> None:
        from torch.fx import GraphModule

        names = private.COMPILER
        if reason := names.missing():
            raise Unsupported(reason)
        mode = names.FakeTensorMode(shape_env=names.ShapeEnv())
        rank = max(example.ndim for example in examples)
        self._inputs = [
            mode.from_tensor(
                example.detach(),
                source=names.ConstantSource(f"input{index}"),
                symbolic_context=names.StatelessSymbolicContext(
                    [
                        names.DimDynamic.STATIC if fixed and 0 < axis == rank - 1 else names.DimDynamic.DYNAMIC
                        for axis in range(example.ndim)
                    ]
                ),
            )
            for index, example in enumerate(examples)
        ]
        with tracing(), torch.no_grad(), mode, names.enable_python_dispatcher():
            traced = names.make_fx(function, decomposition_table=names.select_decomp_table())(*self._inputs)
        aliases = (torch.ops.aten.detach.default, torch.ops.aten.alias.default)
        for node in [node for node in traced.graph.nodes if node.target in aliases]:
            node.replace_all_uses_with(node.args[0])  # they hide from the next ones that values are the same
        read_results(traced.graph, known)
        on_cpu = self._inputs[0].is_cpu
        if on_cpu and size_class(examples)[0]:  # not tried on a card, where it is one kernel more
            expand_last(traced.graph)
        traced.graph.eliminate_dead_code()
        traced.graph.output_node().type = None  # an annotation, which older versions cannot put into a cache's key
        self._flags: list[int] = []
        if on_cpu:
            if any(node.target in _SLOW for node in traced.graph.nodes):
                raise NotWorthIt
            add_in_double(traced.graph)
            count_as_numbers(traced.graph)
            if not sequential:
                self._flags = read_as_numbers(traced.graph)
        with mode:
            numbers = [torch.empty_like(self._inputs[i], dtype=torch.float32) for i in self._flags]
        traced = GraphModule(traced, names.fx_graph_cse(traced.graph))
        whole = sequential and self._inputs[0].is_cuda
        with names.tracing(names.TracingContext(mode)), names.config.patch(_WHOLE if whole else {}):
            self._code = names.compile_fx_inner(traced, [*self._inputs, *numbers])
        self._run = private.callable_inside(self._code)
        assert mode.shape_env is not None
        self._guards = [guard.expr for guard in mode.shape_env.guards]

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        """Whether tensors of these sizes meet every assumption that was made while tracing."""
        from sympy import true

        sizes: dict[Any, int] = {}
        for expected, tensor in zip(self._inputs, tensors, strict=True):
            for symbol, size in zip(expected.shape, tensor.shape, strict=True):
                if isinstance(symbol, int):
                    if symbol != size:
                        return False
                elif size < 2:  # sizes of 0 and 1 are never taken for an open one
                    return False
                else:
                    sizes[symbol.node._expr] = size
        return all(guard.subs(sizes) == true for guard in self._guards)

    def shrinks(self, tensors: Sequence[Tensor]) -> bool:
        """Whether some axis has one element that had more while tracing: a batch of one, too small for a graph."""
        return any(
            size == 1 and not (isinstance(symbol, int) and symbol == 1)
            for expected, tensor in zip(self._inputs, tensors, strict=True)
            for symbol, size in zip(expected.shape, tensor.shape, strict=True)
        )

    def __call__(self, *tensors: Tensor) -> Sequence[Tensor]:
        """Run on contiguous tensors."""
        numbers = [tensors[i].view(torch.uint8).float() for i in self._flags]
        result: Sequence[Tensor] = self._run([*tensors, *numbers])
        return result


class Graphs:
    """The graphs of one function, one for each set of assumptions that the shapes so far have needed.

    The first takes the length of a last axis after a batch (candidates, actions, time) as fixed, for which the compiler
    writes better loops. When it changes, the next graph leaves it open.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]], known: int = 0, sequential: bool = False) -> None:
        self._function, self._known, self._sequential = function, known, sequential
        self._graphs: list[Graph] = []
        self._found: dict[tuple[torch.Size, ...], Graph | None] = {}
        self._refused: str | None = None
        self._eager = False

    def __len__(self) -> int:
        return len(self._graphs)

    def fit(self, tensors: Sequence[Tensor]) -> Graph | None:
        """The graph for tensors of these shapes, compiled if there is none yet; None for what is not worth one."""
        shapes = tuple(tensor.shape for tensor in tensors)
        if shapes not in self._found:
            if len(self._found) >= SHAPES:
                self._found.clear()
            self._found[shapes] = self._fit(tensors)
        return self._found[shapes]

    def _fit(self, tensors: Sequence[Tensor]) -> Graph | None:
        for graph in self._graphs:
            if graph.fits(tensors):
                return graph
        if self._eager or (self._graphs and self._graphs[0].shrinks(tensors)):
            return None
        if self._refused is None and len(self) == GRAPHS:
            self._refused = f"the shapes of one function have needed {GRAPHS} graphs already"
        if self._refused is not None:
            raise Unsupported(self._refused)
        try:
            with _one_at_a_time:
                graph = Graph(self._function, tensors, not self._graphs, self._known, self._sequential)
            self._graphs.append(graph)
        except NotWorthIt:
            self._eager = True
            return None
        except Unsupported as reason:
            self._refused = str(reason)
            raise
        except Exception as error:  # whatever keeps the compiler from working: the result shall not depend on it
            self._refused = f"the compiler fails with {type(error).__name__}: {first_line(error)}"
            raise Unsupported(self._refused) from error
        return self._graphs[-1]
