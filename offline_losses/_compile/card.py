"""How an update is compiled for a card, where a step of small tensors takes as long as it has kernels.

Products of small matrices that need nothing of each other become one batched product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import map_arg

from offline_losses._compile.graph import LARGE
from offline_losses._compile.private import CARD

aten = torch.ops.aten
SMALL = 512 * 512
"""Elements of a matrix up to which a product leaves most of a card idle."""


def options_of_card(inputs: Sequence[Any]) -> dict[str, Any]:
    """Join small kernels, unless the user has a pass there, and do not divide the sums of a small batch and model."""
    largest = max(x.numel() for x in inputs if isinstance(x, Tensor))
    return {
        "combo_kernels": True,
        "split_reductions": largest >= 8 * LARGE,
        "post_grad_custom_pre_pass": CARD.config.post_grad_custom_pre_pass or BatchProducts(),
    }


class BatchProducts(CARD.CustomGraphPass):  # type: ignore[misc, name-defined]
    """Joins the layers of networks that run side by side, such as twin critics, their slow copies and a value."""

    def __call__(self, graph: Any) -> None:
        if any(torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) for node in graph.nodes):
            return  # random numbers come in the order in which eager code draws them
        depth: dict[Any, int] = {}  # how many products come one after the other: of equal depth, none needs another
        alike: dict[Any, list[Any]] = {}
        for node in graph.nodes:
            depth[node] = max((depth[x] for x in node.all_input_nodes), default=0)
            if node.target in (aten.mm.default, aten.addmm.default):
                depth[node] += 1
                if (kind := _kind(node)) is not None:
                    alike.setdefault((depth[node], kind), []).append(node)
        for products in alike.values():
            if len(products) > 1:
                _join(graph, products)
        CARD.stable_topological_sort(graph)

    def uuid(self) -> Any:
        """By which the compiler's cache tells one version of this pass from another."""
        return CARD.get_hash_for_files((__file__,))


def _kind(node: Any) -> Any:
    """What two products must have in common to be one, or None for a product that stays as it is."""
    *bias, left, right = node.args
    matrices = [x.meta["val"] for x in (left, right, node)]
    if node.kwargs or max(map(torch.Tensor.numel, matrices)) > SMALL:
        return None
    if bias and bias[0].meta["val"].shape != matrices[-1].shape[1:]:
        return None
    if bias and matrices[-1].dtype not in (torch.float32, torch.float64):  # added after, it would round 16 bits twice
        return None
    shapes = tuple(tuple(map(int, x.shape)) for x in matrices)
    return node.target, matrices[-1].dtype, matrices[-1].device, shapes, _turned(left), _turned(right)


def _turned(node: Any) -> bool:
    return node.target is aten.t.default or (node.target is aten.permute.default and node.args[1] == [1, 0])


def _join(graph: Any, products: list[Any]) -> None:
    def call(target: Any, *args: Any) -> Any:
        node = graph.call_function(target, args)
        node.meta["val"] = target(*map_arg(args, lambda x: x.meta["val"]))
        return node

    def stack(matrices: list[Any]) -> Any:
        if all(map(_turned, matrices)):  # copied as they lie
            return call(aten.permute.default, stack([x.args[0] for x in matrices]), [0, 2, 1])
        return call(aten.cat.default, [call(aten.unsqueeze.default, x, 0) for x in matrices])

    with graph.inserting_before(products[-1]):
        *biases, lefts, rights = (list(operands) for operands in zip(*(x.args for x in products), strict=True))
        joined = call(aten.bmm.default, stack(lefts), stack(rights))
        if biases:
            joined = call(aten.add.Tensor, joined, call(aten.unsqueeze.default, stack(biases[0]), 1))
        for place, product in enumerate(products):
            product.replace_all_uses_with(call(aten.select.int, joined, 0, place))
    for product in products:
        graph.erase_node(product)
