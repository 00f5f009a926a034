"""What is changed in a traced graph before the compiler gets it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Graph
from torch.fx.node import map_arg

aten = torch.ops.aten
_CONVERT = torch.ops.prims.convert_element_type.default


def split(joint: Any, inputs: int, results: int) -> tuple[Any, Any]:
    """Of a graph of results and gradients: one of the results and what is kept for later, and one of the gradients.

    `joint` takes the inputs and upstream gradients; the second graph takes, after these, the results and what was kept:
    sums, the maximum of a row, and whole algorithms, for which a gradient would have to go over all elements again.
    """
    nodes, inner = list(joint.nodes), joint.find_nodes(op="placeholder")
    values, gradients = nodes[-1].args[0][:results], nodes[-1].args[0][results:]
    later = set(inner[inputs:])
    for node in nodes:
        if not later.isdisjoint(node.all_input_nodes):
            later.add(node)
    before = nodes[: 1 + max(map(nodes.index, values))]
    kept = [_finished(node, before) for node in before if node not in later and _takes_long(node)]
    kept = [node for node in kept if node not in values]

    backward, copies = _copy(joint)
    with backward.inserting_before(copies[nodes[len(inner)]]):
        given = {node: backward.placeholder(f"{node.name}_given") for node in [*values, *kept]}
    for node, placeholder in given.items():
        placeholder.meta["val"] = node.meta["val"]
        if node.op != "placeholder":
            copies[node].replace_all_uses_with(placeholder)
    backward.output([given.get(node, copies[node]) for node in gradients])
    backward.eliminate_dead_code()
    for node in [node for node in kept if not given[node].users]:
        backward.erase_node(given[node])
        kept.remove(node)

    forward, copies = _copy(joint)
    forward.output([copies[node] for node in [*values, *kept]])
    for node in reversed(nodes):
        if node in later and node.op != "output":  # also what is written into, which does not count as dead code
            forward.erase_node(copies[node])
    forward.eliminate_dead_code()
    return forward, backward


def _copy(graph: Any) -> tuple[Any, dict[Any, Any]]:
    copies: dict[Any, Any] = {}
    copy = Graph()
    copy.graph_copy(graph, copies)
    return copy, copies


def _finished(node: Any, before: Sequence[Any]) -> Any:
    """What is made of a sum and of nothing else, rounded or divided by their number, before more than one thing is."""
    while len(node.users) == 1:
        (user,) = node.users
        tensors = [x for x in user.all_input_nodes if isinstance(x.meta.get("val"), torch.Tensor)]
        single = torch.Tag.pointwise in getattr(user.target, "tags", ()) or user.target is _CONVERT
        if tensors != [node] or not single or user not in before:
            break
        node = user
    return node


def _takes_long(node: Any) -> bool:
    if str(node.target).startswith("offline_losses."):
        return True
    if node.target in (aten.amax.default, aten.amin.default):  # over a few critics it does not
        return bool(node.args[1] in ([-1], [node.args[0].meta["val"].dim() - 1]))
    return node.target in (aten.sum.default, aten.sum.dim_IntList)


def read_as_numbers(graph: Any) -> list[int]:
    """Let loops take flags from floats, which become the last inputs: the places of those flags among the inputs.

    What Inductor writes for the CPU branches on each element of a bool tensor; where flags follow no pattern, that
    takes longer than all the rest. Operators of this library get the flags as they are.
    """
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    readers = {
        i: [user for user in flag.users if user.op != "output" and not str(user.target).startswith("offline_losses.")]
        for i, flag in enumerate(inputs)
        if flag.meta["val"].dtype is torch.bool
    }
    found = [i for i, users in readers.items() if users]
    with graph.inserting_before(inputs[-1].next):
        numbers = [graph.placeholder(f"{inputs[i].name}_number") for i in found]
        for i, number in zip(found, numbers, strict=True):
            flag = graph.call_function(aten.ne.Scalar, (number, 0))
            for user in readers[i]:
                user.replace_input_with(inputs[i], flag)
    return found


def count_as_numbers(graph: Any) -> None:
    """Count flags by adding doubles, exactly, where a quotient of floats is what wants the count.

    Vectors of the CPU hold half as many integers of 64 bits as floats, and turn one into the other slowly.
    """
    for node in graph.find_nodes(op="call_function", target=aten.sum.dim_IntList):
        flag, wanted = node.args[0], {user.meta["val"].dtype for user in node.users if user.target is aten.div.Tensor}
        divides = len(wanted) == 1 and all(user.target is aten.div.Tensor for user in node.users)
        if divides and flag.meta["val"].dtype is torch.bool:
            with graph.inserting_before(node):
                number = graph.call_function(_CONVERT, (flag, wanted.pop()))
            node.replace_input_with(flag, number)
            _in_double(graph, node, number.args[1])


def add_in_double(graph: Any) -> None:
    """Add numbers over a batch in double precision where autograd wrote the sum, as `total` does where a formula did.

    The gradient of what all samples share is one: of a hyper-parameter, of the mean observation.
    """
    for target in (aten.sum.default, aten.sum.dim_IntList):
        for node in graph.find_nodes(op="call_function", target=target):
            x = node.args[0].meta["val"]
            axes = node.args[1] if target is aten.sum.dim_IntList and x.dim() > 1 else None
            row = axes in ([-1], [x.dim() - 1])
            few = axes == [0] and isinstance(x.shape[0], int)  # critics, not a batch
            if x.dtype is torch.float32 and not row and not few and node.meta["val"].dtype is torch.float32:
                _in_double(graph, node, torch.float32)


def _in_double(graph: Any, node: Any, dtype: torch.dtype) -> None:
    """Let a sum be taken in double precision, and rounded to `dtype`."""
    node.kwargs = {"dtype": torch.float64}
    with graph.inserting_after(node):
        rounded = graph.call_function(_CONVERT, (node, dtype))
    rounded.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(rounded, delete_user_cb=lambda user: user is not rounded)


def expand_last(graph: Any) -> None:
    """Return what is one number everywhere, as the gradient of a mean is, as that number expanded.

    To write it out takes as long as to read as much, and longer where memory is fresh.
    """
    *_, end = graph.nodes
    # as text, since to compare open sizes would decide them
    values = [node for node in graph.nodes if node.op == "placeholder" and node.meta["val"].is_floating_point()]
    inputs = {str(node.meta["val"].shape): node for node in values}
    with graph.inserting_before(end):
        for result in dict.fromkeys(end.args[0]):
            like = inputs.get(str(result.meta["val"].shape))
            if result.meta["val"].dim() and like is not None and (number := _number(graph, result)) is not None:
                whole = graph.call_function(aten.expand_as.default, (number, like))
                end.replace_input_with(result, whole)


def _number(graph: Any, node: Any) -> Any:
    """What a node holds everywhere as a node without axes, or None if that is unknown."""
    if not node.meta["val"].dim():
        return node
    if node.target is aten.expand.default:
        return _number(graph, node.args[0])
    if torch.Tag.pointwise not in getattr(node.target, "tags", ()):
        return None
    numbers = {x: _number(graph, x) for x in node.all_input_nodes if isinstance(x.meta["val"], torch.Tensor)}
    if not numbers or None in numbers.values():
        return None
    number = graph.call_function(node.target, map_arg(node.args, lambda x: numbers.get(x, x)), dict(node.kwargs))
    # among numbers, what was a knob in double precision decides the dtype
    return graph.call_function(_CONVERT, (number, node.meta["val"].dtype))
