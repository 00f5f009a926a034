"""What is changed in a traced graph before the compiler gets it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Graph

aten = torch.ops.aten
_CONVERT = torch.ops.prims.convert_element_type.default


def split(joint: Any, inputs: int, results: int) -> tuple[Any, Any]:
    """Of a graph of results and gradients: one of the results and what is kept for later, and one of the gradients.

    `joint` takes the inputs and upstream gradients; the second graph takes, after these, the results and what was kept:
    sums, the maximum of a row, and whole algorithms, for which a gradient would have to go over all elements again, and
    what was computed for these algorithms, which had to be written down for them anyway.
    """
    nodes, inner = list(joint.nodes), joint.find_nodes(op="placeholder")
    values, gradients = nodes[-1].args[0][:results], nodes[-1].args[0][results:]
    later = set(inner[inputs:])
    for node in nodes:
        if not later.isdisjoint(node.all_input_nodes):
            later.add(node)
    before = nodes[: 1 + max(map(nodes.index, values))]
    kept = [_finished(node, before) for node in before if node not in later and _takes_long(node)]
    kept += [x for node in kept if _is_operator(node) for x in node.all_input_nodes if _is_pointwise(x)]
    kept = [node for node in dict.fromkeys(kept) if node not in values]

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
        single = _is_pointwise(user) or user.target is _CONVERT
        if tensors != [node] or not single or user not in before:
            break
        node = user
    return node


def _is_operator(node: Any) -> bool:
    """One of this library's own, a whole algorithm."""
    return str(node.target).startswith("offline_losses.")


def _is_pointwise(node: Any) -> bool:
    return torch.Tag.pointwise in getattr(node.target, "tags", ())


def _takes_long(node: Any) -> bool:
    if _is_operator(node):
        return True
    if node.target in (aten.amax.default, aten.amin.default):  # over a few critics it does not
        return len(node.args) == 1 or bool(node.args[1] in ([-1], [node.args[0].meta["val"].dim() - 1]))
    return node.target in (aten.sum.default, aten.sum.dim_IntList, aten.bucketize.Tensor)


def read_as_numbers(graph: Any) -> list[int]:
    """Let loops take flags from floats, which become the last inputs: the places of those flags among the inputs.

    What Inductor writes for the CPU branches on each element of a bool tensor; where flags follow no pattern, that
    takes longer than all the rest. Operators of this library get the flags as they are.
    """
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    readers = {
        i: [user for user in flag.users if user.op != "output" and not _is_operator(user)]
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


def write_as_numbers(graph: Any) -> list[int]:
    """Let loops write flags that are results as bytes of zero and one: the places of those flags among the results.

    What Inductor writes for the CPU stores flags one by one, which takes twenty times longer than to make a float of
    each and a byte of that.
    """
    end = graph.output_node()
    results = list(end.args[0])
    found = [i for i, x in enumerate(results) if x.op != "placeholder" and x.meta["val"].dtype is torch.bool]
    with graph.inserting_before(end):
        for i in found:
            number = graph.call_function(_CONVERT, (results[i], torch.float32))
            results[i] = graph.call_function(_CONVERT, (number, torch.uint8))
    end.args = (results,)
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


def write_beside(graph: Any) -> None:
    """Let what is one number everywhere, as the gradient of a mean is, be written by the loop that reads its argument.

    That loop adds numbers up and waits for each addition, with time to write. Inductor makes one loop of two only where
    both read the same tensor: this one is asked whether it equals itself, and the number is the same if it does not.
    """
    inputs = {_shape(node): node for node in graph.find_nodes(op="placeholder")}
    end = graph.output_node()
    for result in dict.fromkeys(end.args[0]):
        argument = inputs.get(_shape(result))
        if argument is not None and result.meta["val"].dim() and _is_number(result):
            with graph.inserting_after(result):
                equal = graph.call_function(aten.eq.Tensor, (argument, argument))
            with graph.inserting_after(equal):
                written = graph.call_function(aten.where.self, (equal, result, result))
            written.meta["val"] = result.meta["val"]
            end.replace_input_with(result, written)


def _shape(node: Any) -> str:
    return str(node.meta["val"].shape)  # as text, since to compare open sizes would decide them


def _is_number(node: Any) -> bool:
    """Whether a node holds the same number everywhere, as far as can be told."""
    if not node.meta["val"].dim():
        return True
    if node.target is aten.expand.default:
        return _is_number(node.args[0])
    tensors = [x for x in node.all_input_nodes if isinstance(x.meta["val"], torch.Tensor)]
    return _is_pointwise(node) and bool(tensors) and all(map(_is_number, tensors))
