"""Precision, selection and reduction, in both of their ways."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from comparison import close, gradients

from offline_losses._core import reduce
from offline_losses._core.checks import Reduction
from offline_losses._core.reduce import (
    check_size,
    exact,
    in_double,
    log_sigmoid,
    mean_size,
    over_mean,
    over_rows,
    over_steps,
    scalar,
    select_rows,
    shared,
    total,
)
from offline_losses._core.tracing import tracing

CPU = torch.device("cpu")


@pytest.mark.parametrize("compiled", [False, True])
def test_a_number_becomes_a_tensor(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the other's dtype, or with all its digits; compiled code computes it in another way."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiled)
    assert scalar(0.3, torch.ones(2)).equal(torch.tensor(0.3))
    for make in (in_double, exact):
        assert make(0.3, CPU).equal(torch.tensor(0.3, dtype=torch.float64))


def test_rows_that_do_not_exist_are_zero() -> None:
    """All along their last axis."""
    assert select_rows(torch.tensor([True, False]), torch.full((2, 2), torch.nan)).nan_to_num(1.0).tolist() == [
        [1.0, 1.0],
        [0.0, 0.0],
    ]


def test_a_given_size_has_no_gradient() -> None:
    """It is a constant, as the mean is."""
    for size in (None, torch.tensor(2.0, requires_grad=True)):
        assert not mean_size(torch.ones(3, requires_grad=True), None, 1e-6, size).requires_grad


def test_the_sigmoid_of_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own formula, PyTorch's having no derivative there, has all digits of small numbers too."""
    monkeypatch.setattr(reduce, "is_sharded", lambda x: True)
    monkeypatch.delattr(reduce, "logsigmoid")
    x = torch.tensor([-1e4, -90.0, -60.0, -1.0, 0.0, 0.5, 30.0, 60.0, 79.0, 100.0, 1e4], dtype=torch.float64)
    expected = torch.from_numpy(-np.logaddexp(0.0, -x.numpy()))
    torch.testing.assert_close(log_sigmoid(x), expected, rtol=1e-12, atol=1e-34)
    torch.testing.assert_close(gradients(log_sigmoid, x)[0], torch.sigmoid(-x), rtol=1e-12, atol=1e-16)


def test_sums_of_generated_code_have_all_digits() -> None:
    """A loop that adds one number after the other would lose the one."""
    with tracing():
        assert total(torch.tensor([1e8, 1.0, -1e8])) == 1.0


@pytest.mark.parametrize("scale", [0.0, 2.0**-149, 1e-30, 1.0, 1e36])
def test_generated_code_divides_by_the_same_mean(scale: float) -> None:
    """Whatever the size of the numbers, the smallest that there are among them, and beside one large number."""
    for x in (torch.tensor([1.0, 0.0, 2.0, 1.0, 3.0, 3.0, 0.0]), torch.eye(2000)[0] * 1e21 * (scale == 1.0)):
        x = x * scale
        with tracing():
            found = over_mean(x, len(x))
        torch.testing.assert_close(found, over_mean(x, len(x)), rtol=1e-6, atol=0)


def test_a_hyper_parameter_gets_axes() -> None:
    """One of the batch a further one at its end, one of sequences too, and one of each step none."""
    rows = torch.tensor([2.0, 3.0])
    assert over_rows(rows).tolist() == [[2.0], [3.0]]
    assert over_rows(rows, 2).tolist() == [[[2.0]], [[3.0]]]
    steps = torch.arange(4.0).view(2, 2)
    assert over_steps(rows, steps).tolist() == [[2.0, 2.0], [3.0, 3.0]]
    assert over_steps(steps, torch.zeros(2, 2)).equal(steps)


@pytest.mark.parametrize("x", [-60.0, 0.0, 60.0])
def test_the_logarithm_of_the_sigmoid(x: float) -> None:
    """-log(1 + exp(-x)), of a plain tensor."""
    close(log_sigmoid(torch.tensor(x).double()), -np.logaddexp(0.0, -x))


def test_each_run_has_a_mean_of_its_own() -> None:
    """One denominator for each divides its elements, and the means are added up."""
    loss = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = reduce.reduce(loss, None, None, "mean", torch.tensor([[2.0], [4.0]]))
    assert found == (1 + 2) / 2 + (3 + 4) / 4


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("mask", [None, [True, False, True], [False, True, False], [False, False, False]])
@pytest.mark.parametrize("denominator", [None, 0.0, 5.0])
def test_shares_add_up_to_the_reduction(reduction: Reduction, mask: list[bool] | None, denominator: float) -> None:
    """Of losses with weights: each element times its share, which is nothing where it does not exist."""
    loss, weight = torch.tensor([[1.0, 4.0, 2.0], [8.0, 1.0, 3.0]]).double()
    exists = [True] * 3 if mask is None else mask
    count = 1 if reduction == "sum" else max(1, sum(exists)) if denominator is None else denominator or 1
    arguments = None if mask is None else torch.tensor(mask), weight, reduction
    shares = shared(torch.ones_like(loss), *arguments, None if reduction == "sum" else denominator)
    expected = [w * e / count for w, e in zip(weight.tolist(), exists, strict=True)]
    close(shares, torch.tensor(expected, dtype=torch.float64))
    close((shares * loss).sum(), reduce.reduce(loss, *arguments, None if reduction == "sum" else denominator))


def test_the_share_of_a_single_element() -> None:
    """All, and nothing of none."""
    for size in (0, 1):
        assert shared(torch.ones(size), None, None, "mean", None).tolist() == [1.0] * size


@pytest.mark.parametrize("wrong", [(0.0, None), (-1.0, None), (1.0, -1.0), (1.0, torch.ones(3)), (torch.ones(3), None)])
def test_a_size_is_positive(wrong: tuple[float, float | None]) -> None:
    """And the given one at least zero; each is one number or one for each element."""
    check_size("f", 1e-6, 0.0, torch.Size([2]))
    check_size("f", torch.ones(2), torch.ones(2), torch.Size([2]))
    with pytest.raises(ValueError, match="f: "):
        check_size("f", *wrong, torch.Size([2]))
