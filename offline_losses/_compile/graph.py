"""One function as generated code: traced once, compiled by TorchInductor, and called without the guards of Dynamo.

`torch.compile` checks its guards on every call, which costs a small loss more than its arithmetic. A `Graph` is traced
with unknown sizes and called directly; whoever holds it asks `fits` first, once for each new set of shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from offline_losses._compile import passes, private
from offline_losses._compile.switches import Process, Unsupported, first_line, warn_once
from offline_losses._core.tracing import tracing

GRAPHS = 8
"""How many graphs one function may need for the shapes it meets before the next ones run eagerly."""

LARGE = 2**15
"""From this many elements on a graph is laid out for much work: for threads, or the blocks of a card."""

LARGEST = 2**23
"""From this many elements on a sum has blocks enough for any card."""

MEMBERS = 16
"""Up to so long a first axis, in a tensor of a thousand times as many elements, is taken for one of critics or models,
whose number seldom changes."""

SHAPES = 4096
"""How many sets of shapes are remembered together with what runs them."""

_one_at_a_time = RLock()


class NotWorthIt(Exception):
    """Generated code would be slower than the operators."""


_SLOW = (torch.ops.aten.cummax.default, torch.ops.aten.argmax.default, torch.ops.aten.sort.stable)
"""What Inductor's loops for the CPU take several times longer for than PyTorch's own, or leave to it at a price."""

_ALIASES = (torch.ops.aten.detach.default, torch.ops.aten.alias.default)

_WHOLE = dict.fromkeys(("realize_opcount_threshold", "realize_reads_threshold", "realize_acc_reads_threshold"), 10**6)
"""So that Inductor writes nothing to memory between the steps of a row."""


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


class Graph:
    """A pure function of tensors, compiled for their dtypes, ranks and device, with their sizes left open.

    Of two or more axes the last keeps its length with `last`, and the first with `first` if it is short, in the inputs
    that have the most axes.
    """

    def __init__(self, plan: Plan, examples: Sequence[Tensor], *, first: bool, last: bool) -> None:
        if reason := private.COMPILER.missing():
            raise Unsupported(reason)
        self._plan = plan
        self._mode = private.COMPILER.FakeTensorMode(shape_env=private.COMPILER.ShapeEnv())
        self._backward: Any = None
        self._gradients: Callable[..., Sequence[Tensor]] | None = None
        rank = max(example.ndim for example in examples)
        self.sizes = [example.shape for example in examples]
        self._inputs = [self._open(x, *((first, last) if 2 <= x.ndim == rank else (False, False))) for x in examples]
        if plan.later is None:
            graph = self._trace(plan.function, self._inputs)
        else:
            with tracing(), torch.no_grad(), self._mode, private.COMPILER.enable_python_dispatcher():
                results = plan.function(*self._inputs)
                upstream = [
                    torch.empty(x.shape, dtype=x.dtype, device=x.device)
                    for x, flag in zip(results, plan.differentiable, strict=True)
                    if flag
                ]
            joint = self._trace(plan.later, [*self._inputs, *upstream])
            graph, self._backward = passes.split(joint, len(self._inputs), len(results))
        if plan.loss and examples[0].is_cpu:
            passes.write_beside(graph)
        self._code = self._compile(graph)
        self._guards = [guard.expr for guard in self._mode.shape_env.guards]

    def _open(self, example: Tensor, first: bool, last: bool) -> Tensor:
        """What stands for an input while tracing."""
        names = private.COMPILER
        sizes = [names.DimDynamic.DYNAMIC] * example.ndim
        if last:
            sizes[-1] = names.DimDynamic.STATIC
        if first and example.shape[0] <= MEMBERS and example.numel() >= MEMBERS * 2**10:
            sizes[0] = names.DimDynamic.STATIC
        source, context = names.ConstantSource("input"), names.StatelessSymbolicContext(sizes)
        fake: Tensor = self._mode.from_tensor(example.detach(), source=source, symbolic_context=context)
        return fake

    def _trace(self, function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> Any:
        names = private.COMPILER
        one_thread = torch.autograd.set_multithreading_enabled(False)
        with tracing(), torch.no_grad(), one_thread, self._mode, names.enable_python_dispatcher():
            self._module = names.make_fx(function, decomposition_table=names.select_decomp_table())(*inputs)
        graph = self._module.graph
        for node in [node for node in graph.nodes if node.target in _ALIASES]:
            node.replace_all_uses_with(node.args[0])  # they hide from the next ones that values are the same
        return graph

    def _compile(self, graph: Any) -> Callable[..., Sequence[Tensor]]:
        names, sequential, Process.compiled = private.COMPILER, self._plan.sequential, True
        graph.eliminate_dead_code()
        graph.output_node().type = None  # an annotation, which older versions cannot put into a cache's key
        with self._mode:
            inputs = [
                torch.empty(x.shape, dtype=x.dtype, device=x.device)
                for x in (node.meta["val"] for node in graph.find_nodes(op="placeholder"))
            ]
        flags: list[int] = []
        written: list[int] = []
        if inputs[0].is_cpu:
            if any(node.target in _SLOW for node in graph.nodes):
                raise NotWorthIt
            passes.add_in_double(graph)
            passes.count_as_numbers(graph)
            written = passes.write_as_numbers(graph)
            if not sequential:
                flags = passes.read_as_numbers(graph)
        with self._mode:
            inputs += [torch.empty_like(inputs[i], dtype=torch.float32) for i in flags]
        module = GraphModule(self._module, names.fx_graph_cse(graph))
        whole = sequential and inputs[0].is_cuda
        with (
            names.tracing(names.TracingContext(self._mode)),
            names.config.patch({"size_asserts": private.needs_size_asserts()} | (_WHOLE if whole else {})),
        ):
            run = private.callable_inside(names.compile_fx_inner(module, inputs))

        def code(*tensors: Tensor) -> Sequence[Tensor]:
            result = list(run([*tensors, *(tensors[i].view(torch.uint8).float() for i in flags)]))
            for i in written:
                result[i] = result[i].view(torch.bool)
            return result

        return code

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
        """Run on contiguous tensors: the results, and what was kept for their gradients."""
        return self._code(*tensors)

    def gradients(self, *tensors: Tensor) -> Sequence[Tensor] | None:
        """The gradients, of the inputs, upstream gradients, results and what was kept; None if there is no code."""
        if self._gradients is None and self._backward is not None:
            try:
                with _one_at_a_time:
                    self._gradients = self._compile(self._backward)
            except Exception as error:
                warn_once(f"the compiler fails with {type(error).__name__}: {first_line(error)}")
            self._backward = None
        return None if self._gradients is None else self._gradients(*tensors)


@dataclass(frozen=True)
class Plan:
    """What is compiled together.

    `later` takes, beside the function's arguments, upstream gradients of the results that are `differentiable`, and
    returns the results and the gradients: it becomes a graph of its own. A `loss` returns its gradients before itself.
    What is `sequential` takes steps in a row: on the CPU its loops read flags as they are, the faster way for flags
    that are seldom True, and on a card a row is not cut into several kernels.
    """

    function: Callable[..., Sequence[Tensor]]
    later: Callable[..., Sequence[Tensor]] | None = None
    differentiable: Sequence[bool] = ()
    loss: bool = False
    sequential: bool = False


class Graphs:
    """The graphs of one function, one for each set of assumptions that the shapes so far have needed.

    The first takes the lengths of a last axis after a batch (candidates, actions, time) and of a short first axis
    before one (critics, models) as fixed, for which the compiler writes better loops. The next leaves open which of
    them has changed, the third both.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
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

    def _same(self, tensors: Sequence[Tensor], axis: int) -> bool:
        """Whether the length of this axis has been the same for all graphs so far, of which there are few."""
        longest = max(range(len(tensors)), key=lambda i: tensors[i].ndim)
        if tensors[longest].ndim == 0:
            return False
        sizes = [graph.sizes[longest][axis] for graph in self._graphs]
        return len(self) < 2 and all(size == tensors[longest].shape[axis] for size in sizes)

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
                self._graphs.append(
                    Graph(self._plan, tensors, first=self._same(tensors, 0), last=self._same(tensors, -1))
                )
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
