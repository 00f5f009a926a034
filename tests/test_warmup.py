"""What `fused.warmup` calls, and what it leaves alone; nothing is compiled here."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from offline_losses.fused import warmup


class Product(torch.autograd.Function):
    """Notes the gradients that come in."""

    incoming: ClassVar[list[Tensor]] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        """The product."""
        ctx.save_for_backward(x, y)
        return x * y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Of both."""
        Product.incoming.append(gradients[0])
        x, y = ctx.saved_tensors
        return gradients[0] * y, gradients[0] * x


@pytest.mark.parametrize("several", [False, True])
def test_value_and_gradient_are_computed(several: bool) -> None:
    """Also where gradients are switched off; of one result or several, of which some have none."""
    x, y = torch.tensor([2.0, 3.0], requires_grad=True), torch.tensor([4.0, 5.0], requires_grad=True)

    def function(x: Tensor, unused: Tensor, *, y: Tensor, scale: float) -> Any:
        product = Product.apply(x, y) * scale
        return (product, x.detach()) if several else product

    Product.incoming.clear()
    with torch.no_grad():
        warmup(function, x, torch.ones(1, requires_grad=True), y=y, scale=3.0)
    assert [g.tolist() for g in Product.incoming] == [[3.0, 3.0]]
    assert x.grad is None
    assert y.grad is None


def test_arguments_are_as_they_would_be() -> None:
    """Leaves where they were, with a gradient where they had one, and never the caller's own graph; others as given."""
    leaf, constant, options = torch.ones(2, requires_grad=True), torch.ones(2), {"an": "option"}
    inner, seen = leaf * 2, []
    warmup(lambda *given: seen.extend(given) or torch.ones(1), leaf, constant, inner, options)
    assert [x.requires_grad for x in seen[:3]] == [True, False, True]
    assert [x.is_leaf for x in seen[:3]] == [True, True, False]
    assert seen[0].data_ptr() == leaf.data_ptr()
    assert seen[0] is not leaf
    assert torch.autograd.grad(seen[2].sum(), leaf, allow_unused=True) == (None,)
    assert seen[3] is options


def test_seconds_are_those_that_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the call and its gradient."""
    clock = iter([10.0, 12.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert warmup(lambda x: x * 2, torch.ones(2, requires_grad=True)) == 2.5
