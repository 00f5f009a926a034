"""From the graph of an update to generated code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, library

from offline_losses._compile.kernels import together
from offline_losses._compile.private import KERNELS, UPDATE

_library = library.Library("offline_losses", "FRAGMENT")  # type: ignore[no-untyped-call]


def _marker(name: str, kernel: Callable[[Tensor], Tensor]) -> Any:
    _library.define(f"{name}(Tensor x) -> Tensor", tags=torch.Tag.pt2_compliant_tag)  # type: ignore[no-untyped-call]
    _library.impl(name, kernel, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    library.register_fake(f"offline_losses::{name}", torch.empty_like, lib=_library)
    return getattr(torch.ops.offline_losses, name).default


gradient_before = _marker("gradient_before", torch.zeros_like)
"""Stands for a gradient that was there before the update. Who reads it adds to it; most clear it first."""

result_of_update = _marker("result_of_update", torch.clone)
"""Marks what the update returns, which must not be memory that later calls write into."""


class ReadsGradient(Exception):
    """The update adds to gradients that were there before it."""


def kept(x: Any) -> Any:
    """A result that stays as it is, whatever later calls do."""
    return x.detach().clone() if isinstance(x, Tensor) else x


def compile_graph(graph: Any, inputs: Sequence[Any]) -> Any:
    """The graph as generated code, which draws the random numbers that eager code would draw."""
    patches: dict[str, Any] = {"fallback_random": True, "size_asserts": False}
    on_card = any(isinstance(x, Tensor) and x.is_cuda for x in inputs)
    if on_card:
        from offline_losses._compile.card import options_of_card

        patches |= options_of_card(inputs)
    with nullcontext() if on_card or KERNELS.missing() else together():
        return UPDATE.compile_fx(graph, inputs, config_patches=patches)


def compile_whole(graph: Any, inputs: Sequence[Any]) -> Any:
    """The graph of a whole update, once it is sure that it computes what the update would."""
    for node in graph.graph.find_nodes(op="get_attr"):
        held = getattr(graph, node.target, None)
        if isinstance(held, Tensor) and held.requires_grad:
            raise RuntimeError("a parameter is marked as static, and would get no gradient")
    for node in graph.graph.find_nodes(op="call_function", target=gradient_before):
        if node.users:
            raise ReadsGradient
        graph.graph.erase_node(node)
    if any(map(_is_frozen, inputs)):
        raise RuntimeError("it reads a 0-d tensor of doubles on the CPU, which generated code cannot write into")
    outputs = graph.graph.output_node().args[0]
    places = [i for i, node in enumerate(outputs) if getattr(node, "target", None) is result_of_update]
    for node in graph.graph.find_nodes(op="call_function", target=result_of_update):
        node.target = torch.clone
    graph.recompile()
    return _with_memory_of_its_own(compile_graph(graph, inputs), places)


def _with_memory_of_its_own(run: Callable[..., Any], places: list[int]) -> Callable[..., Any]:
    """Copy those of these results that turn out to be memory of an input: the compiler leaves out a copy at the end."""
    shared: list[int] | None = None

    def wrapped(*inputs: Any) -> Any:
        nonlocal shared
        results = run(*inputs)
        if shared is None:
            memory = {x.untyped_storage().data_ptr() for x in inputs if isinstance(x, Tensor)}
            shared = [i for i in places if results[i].untyped_storage().data_ptr() in memory]
        if shared:
            results = list(results)
            for i in shared:
                results[i] = kept(results[i])
        return results

    return wrapped


def _is_frozen(x: Any) -> bool:
    """Whether what generated code adds to this tensor is lost: PyTorch takes it for a number."""
    return isinstance(x, Tensor) and x.dim() == 0 and x.dtype == torch.float64 and x.is_cpu and not x.requires_grad


def compile_part(graph: Any, inputs: Sequence[Any]) -> Any:
    """Between two breaks the update has begun: where the compiler fails, the graph runs operator by operator."""
    if any(map(_is_frozen, inputs)):
        return graph.forward
    try:
        return compile_graph(graph, inputs)
    except UPDATE.RestartAnalysis:
        raise
    except Exception:
        return graph.forward
