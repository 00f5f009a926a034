"""The laws of a projection onto many classes: those of a softmax, in tiles of any size, in the memory of a few."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import compress, product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from comparison import close, gradients
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ledger import total
from strategies import batches, reals, tensors
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from offline_losses import (
    cql_logsumexp_penalty,
    linear_cql_penalty,
    linear_log_prob,
    linear_nll_loss,
    nll_loss,
    soft_value,
)
from offline_losses._core import projected_sum, projection, ranks

REDUCTIONS: tuple[Literal["mean", "sum"], ...] = ("mean", "sum")
Sample = tuple[Tensor, Tensor, Tensor, Tensor]


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """Hidden states, a head, actions and a bias."""
    batch, classes, size = draw(batches(0, 2, 1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 3))
    action = torch.from_numpy(draw(arrays(np.int64, batch, elements=st.integers(0, classes - 1))))
    hidden, head = draw(tensors((*batch, size), -3.0, 3.0)), draw(tensors((classes, size), -3.0, 3.0))
    return hidden, head, action, draw(tensors((classes,), -3.0, 3.0))


def logits(hidden: Tensor, head: Tensor, bias: Tensor, temperature: float = 1.0) -> Tensor:
    """All of them."""
    return (hidden @ head.mT + bias) / temperature


@given(sample=samples(), temperature=reals(0.2, 3.0), chunk=st.integers(1, 10))
def test_it_is_the_softmax_of_all_logits(sample: Sample, temperature: float, chunk: int) -> None:
    """Both numbers, the value of the action, the soft value, and the gradients, whatever a tile holds."""
    hidden, head, action, bias = sample
    options: dict[str, Any] = {"temperature": temperature, "chunk": chunk}

    def ours(hidden: Tensor, head: Tensor, bias: Tensor) -> Tensor:
        return total(linear_log_prob(hidden, head, action, bias=bias, **options))

    def plain(hidden: Tensor, head: Tensor, bias: Tensor) -> Tensor:
        z = logits(hidden, head, bias, temperature)
        log_prob = z.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)
        return total((log_prob, z.logsumexp(-1)))

    close(ours(hidden, head, bias), plain(hidden, head, bias))
    for one, other in zip(gradients(ours, hidden, head, bias), gradients(plain, hidden, head, bias), strict=True):
        close(one, other)
    found = linear_log_prob(hidden, head, action, bias=bias, **options)
    q = logits(hidden, head, bias)
    close(temperature * (found.log_prob + found.log_normalizer), q.gather(-1, action.unsqueeze(-1)).squeeze(-1))
    close(temperature * found.log_normalizer, soft_value(q, temperature=temperature))


@given(sample=samples(), temperature=reals(0.2, 3.0))
def test_the_losses_are_those_of_all_values(sample: Sample, temperature: float) -> None:
    """CQL's gap is the cross-entropy times the temperature, and a vocabulary makes no difference to either loss."""
    hidden, head, action, bias = sample
    options: dict[str, Any] = {"bias": bias, "temperature": temperature, "chunk": 4}
    q = logits(hidden, head, bias)
    q_data = q.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    penalty = linear_cql_penalty(hidden, head, action, **options, reduction="none")
    close(penalty, cql_logsumexp_penalty(q, q_data, temperature=temperature, reduction="none"))
    loss = linear_nll_loss(hidden, head, action, **options, reduction="none")
    close(loss, nll_loss(linear_log_prob(hidden, head, action, **options).log_prob, reduction="none"))
    close(penalty, temperature * loss)


@given(sample=samples(), shift=reals(-50.0, 50.0))
def test_a_common_shift_and_the_order_of_classes_mean_nothing(sample: Sample, shift: float) -> None:
    """The log-probability is blind to both, the normalizer moves with the shift; probabilities sum to one."""
    hidden, head, action, bias = sample
    found = linear_log_prob(hidden, head, action, bias=bias, chunk=2)
    moved = linear_log_prob(hidden, head.flip(0), len(head) - 1 - action, bias=bias.flip(0) + shift, chunk=3)
    close(moved.log_prob, found.log_prob)
    close(moved.log_normalizer, found.log_normalizer + shift)
    each = [linear_log_prob(hidden, head, torch.full_like(action, v), bias=bias).log_prob for v in range(len(head))]
    close(torch.stack(each).exp().sum(0), torch.ones(action.shape).double())


def test_classes_that_do_not_exist() -> None:
    """A bias of −∞ takes a class out, a whole tile of them too; without any class nothing has a gradient."""
    hidden, head = torch.randn(3, 2, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64)
    action, temperature = torch.tensor([0, 4, 6]), torch.tensor(0.7, dtype=torch.float64)
    bias = torch.tensor([0.0, 0.5, -torch.inf, -torch.inf, 1.0, -torch.inf, 0.0], dtype=torch.float64)
    kept = bias.isfinite()
    within = torch.tensor([0, 2, 3])

    def some(hidden: Tensor, temperature: Tensor) -> Tensor:
        return total(linear_log_prob(hidden, head, action, bias=bias, temperature=temperature, chunk=2))

    def rest(hidden: Tensor, temperature: Tensor) -> Tensor:
        return total(linear_log_prob(hidden, head[kept], within, bias=bias[kept], temperature=temperature))

    close(some(hidden, temperature), rest(hidden, temperature))
    for one, other in zip(gradients(some, hidden, temperature), gradients(rest, hidden, temperature), strict=True):
        close(one, other)
    never = torch.full((7,), -torch.inf, dtype=torch.float64)
    found = linear_log_prob(hidden.requires_grad_(), head, action, bias=never)
    assert all((x == -torch.inf).all() for x in found)
    (slope,) = torch.autograd.grad(found.log_normalizer.sum(), hidden)
    assert (slope == 0).all()
    assert linear_log_prob(hidden, head, torch.tensor([2, 3, 5]), bias=bias).log_prob.tolist() == [-torch.inf] * 3


@pytest.mark.parametrize("function", [linear_cql_penalty, linear_nll_loss])
def test_a_masked_sample_reaches_no_gradient(function: Callable[..., Tensor]) -> None:
    """Also where the class that stands in for its action does not exist, and the temperature is learned."""
    hidden, head, temperature = torch.randn(3, 2), torch.randn(4, 2), torch.tensor(0.5, requires_grad=True)
    bias, action = torch.tensor([-torch.inf, 0.0, 0.0, 0.0]), torch.tensor([1, 9, 2])
    mask = torch.tensor([True, False, True])
    found = function(hidden, head, action, bias=bias, temperature=temperature, mask=mask)
    expected = function(hidden[mask], head, action[mask], bias=bias, temperature=temperature)
    slopes = [torch.autograd.grad(loss, temperature)[0] for loss in (found, expected)]
    torch.testing.assert_close([found, slopes[0]], [expected, slopes[1]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_no_less_exact_than_the_formula(dtype: torch.dtype) -> None:
    """In float32 neither values nor gradients are further from float64 than eager's, also far from zero."""
    torch.manual_seed(0)
    hidden, head, action = torch.randn(64, 32), torch.randn(5000, 32), torch.randint(5000, (64,))
    bias = 1000 + torch.randn(5000)

    def eager(hidden: Tensor, head: Tensor, bias: Tensor) -> list[Tensor]:
        z = hidden @ head.mT + bias
        return [z.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1), z.logsumexp(-1)]

    def run(function: Callable[..., Any], *x: Tensor) -> list[Tensor]:
        inner = [each.detach().requires_grad_() for each in x]
        log_prob, log_normalizer = function(*inner)
        loss = log_prob.sum() + log_normalizer.square().sum()
        return [log_prob, log_normalizer, *torch.autograd.grad(loss, inner)]

    def ours(hidden: Tensor, head: Tensor, bias: Tensor) -> Any:
        return linear_log_prob(hidden, head, action, bias=bias)

    given = [x.to(dtype) for x in (hidden, head, bias)]
    exact = run(eager, *(x.double() for x in given))
    for one, other, truth in zip(run(ours, *given), run(eager, *(x.float() for x in given)), exact, strict=True):
        rounding = 4 * torch.finfo(one.dtype).eps * truth.abs().max()
        assert (one - truth).abs().max() <= (other - truth).abs().max() + rounding


def test_actions_are_held_to_the_head() -> None:
    """One that is no row of it is named where it can be seen; a masked one may be anything."""
    hidden, head = torch.randn(2, 3), torch.randn(5, 3)
    for wrong in (-100, 5):
        action = torch.tensor([1, wrong])
        for function in (linear_log_prob, linear_cql_penalty, linear_nll_loss):
            said = rf"{function.__name__}: action: expected classes in \[0, 5\), got {wrong}\. Number"
            with pytest.raises(ValueError, match=said):
                function(hidden, head, action)
        mask = torch.tensor([True, False])
        close(linear_nll_loss(hidden, head, action, mask=mask), linear_nll_loss(hidden[:1], head, action[:1]))
    with pytest.raises(ValueError, match=r"linear_log_prob: head: expected shape \[V, 3\] of at least one class"):
        linear_log_prob(hidden, head[:, :2], torch.zeros(2, dtype=torch.int64))


def test_more_rows_than_a_tile_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one class of slices, and of several; the head's gradient adds up over them, in half precision too."""
    torch.manual_seed(0)
    hidden, head, action = torch.randn(11, 3), torch.randn(7, 3), torch.randint(7, (11,))
    for dtype in (torch.float32, torch.bfloat16):
        given = [x.to(dtype) for x in (hidden, head)]
        found = []
        for rows in (3, 11, 512):
            monkeypatch.setattr(projection, "ROWS", rows)
            found.append(gradients(lambda h, w: total(linear_log_prob(h, w, action, chunk=3)), *given))
        for one in found[:2]:
            for a, b in zip(one, found[2], strict=True):
                torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_gradient_that_is_made_with_the_loss(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of some rows at a time, in tiles whose largest logit grows: that of the formula, also at a second time."""
    generator = torch.Generator().manual_seed(0)
    hidden, head, bias, temperature, weight = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((11, 3), (7, 3), (7,), (), (11,))
    )
    temperature, steep = temperature.detach().abs().requires_grad_(), 20 * torch.arange(7.0)
    action, mask = torch.randint(7, (11,), generator=generator), torch.arange(11) % 4 > 0
    given = [hidden, head, bias, temperature]

    def formula(function: Callable[..., Tensor], hidden: Tensor, head: Tensor, bias: Tensor, cold: Tensor) -> Tensor:
        z = (hidden.double() @ head.double().mT + bias.double() + steep) / cold.double()
        loss = -z.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)
        loss = loss * cold.double() if function is linear_cql_penalty else loss
        return (loss * weight.detach().double())[mask].sum() / 5

    for function in (linear_cql_penalty, linear_nll_loss):
        for rows in (3, 16):
            monkeypatch.setattr(projected_sum, "_kept_rows", lambda head, rows=rows: rows)
            options: dict[str, Any] = {"chunk": 2, "mask": mask, "weight": weight, "denominator": 5}
            loss = function(hidden, head, action, bias=bias + steep, temperature=temperature, **options)
            expected = formula(function, *given)
            torch.testing.assert_close(loss.double(), expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-9, atol=0)
            wanted = torch.autograd.grad(expected, given)
            for size in (1.0, 3.0):
                found = torch.autograd.grad(size * loss, given, retain_graph=True)
                torch.testing.assert_close(found, [size * x for x in wanted], check_dtype=False)
            alone = function(hidden, head.detach(), action, bias=bias.detach() + steep, temperature=0.5, **options)
            again = torch.autograd.grad(alone, hidden, retain_graph=True)
            assert torch.equal(again[0], torch.autograd.grad(alone, hidden)[0])


def test_any_choice_of_gradients_is_of_the_same_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made with the loss, some rows at a time: a frozen head, or a bias that is learned alone, changes no other."""
    for module in (projected_sum, projection):
        monkeypatch.setattr(module, "ROWS", 3)
    action = torch.arange(7) % 5
    given = [torch.randn(shape).double() for shape in ((7, 2), (5, 2), (5,))] + [torch.tensor(0.7).double()]

    def slopes(wanted: tuple[bool, ...]) -> list[Tensor]:
        hidden, head, bias, temperature = (
            x.clone().requires_grad_(want) for x, want in zip(given, wanted, strict=True)
        )
        loss = linear_nll_loss(hidden, head, action, bias=bias, temperature=temperature)
        return list(torch.autograd.grad(loss, [x for x in (hidden, head, bias, temperature) if x.requires_grad]))

    every = slopes((True,) * 4)
    for wanted in product((True, False), repeat=4):
        if any(wanted):
            for one, other in zip(slopes(wanted), compress(every, wanted), strict=True):
                close(one, other)


def test_gradients_are_made_once_and_again_when_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the loss, unless in half precision the head's would be rounded from part to part."""
    made = []
    own = projected_sum.sum_and_gradient
    monkeypatch.setattr(projected_sum, "sum_and_gradient", lambda *x: made.append(len(x[3])) or own(*x))
    monkeypatch.setattr(projected_sum, "_kept_rows", lambda head: 3)
    for rows, dtype, ahead in ((3, "float32", 1), (4, "float32", 1), (3, "bfloat16", 1), (4, "bfloat16", 0)):
        hidden, head = (torch.randn(n, 2, dtype=getattr(torch, dtype), requires_grad=True) for n in (rows, 5))
        loss = linear_nll_loss(hidden, head, torch.zeros(rows, dtype=torch.int64))
        assert len(made) == ahead
        torch.autograd.grad(loss, [hidden, head], retain_graph=True)
        assert len(made) == ahead
        torch.autograd.grad(loss, [hidden, head])
        assert len(made) == 2 * ahead
        made.clear()


def test_a_mean_in_half_precision_is_a_sum_over_the_count() -> None:
    """To the digits of float32, whichever its parts have."""
    hidden, head, action = torch.randn(11, 3).bfloat16(), torch.randn(5, 3).bfloat16(), torch.arange(11) % 5
    mean, whole = (linear_nll_loss(hidden, head, action, reduction=reduction) for reduction in REDUCTIONS)
    torch.testing.assert_close(mean, whole / 11, rtol=1e-6, atol=0)


def test_a_second_derivative_points_at_the_formula() -> None:
    """By autograd, by transforms, forwards, and by the temperature: one sentence, never a wrong number."""
    hidden, head, action = torch.randn(2, 3, requires_grad=True), torch.randn(5, 3), torch.tensor([1, 2])

    def loss(hidden: Tensor) -> Tensor:
        return linear_nll_loss(hidden, head, action)

    (slope,) = torch.autograd.grad(loss(hidden), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match=r"got a second derivative\. Differentiate the formula itself, torch\."):
        slope.sum().backward()
    with pytest.raises(RuntimeError, match="got a second derivative"):
        torch.func.grad(lambda hidden: torch.func.grad(loss)(hidden).sum())(hidden.detach())
    for function in (loss, lambda hidden: linear_log_prob(hidden, head, action).log_prob.sum()):
        with pytest.raises(RuntimeError, match="got one taken forwards"):
            torch.func.hessian(function)(hidden.detach())
    temperature = torch.tensor(0.5, requires_grad=True)
    penalty = linear_cql_penalty(hidden, head, action, temperature=temperature)
    log_prob, _ = linear_log_prob(hidden, head, action, temperature=temperature)
    for found in (penalty, log_prob.square().sum()):
        (slope,) = torch.autograd.grad(found, temperature, create_graph=True)
        with pytest.raises(RuntimeError, match="got a second derivative"):
            slope.backward()


def test_transforms_map_heads_and_samples() -> None:
    """An ensemble of heads, and the gradients of each sample, are those of a loop."""
    hidden, heads, action = torch.randn(4, 3), torch.randn(2, 5, 3), torch.tensor([1, 2, 0, 4])

    def loss(head: Tensor, hidden: Tensor, action: Tensor) -> Tensor:
        return 3 * linear_nll_loss(hidden, head, action)

    mapped = torch.func.vmap(loss, (0, None, None))(heads, hidden, action)
    torch.testing.assert_close(mapped, torch.stack([loss(head, hidden, action) for head in heads]))
    both = torch.func.grad_and_value(loss)
    found = torch.func.vmap(both, (0, None, None))(heads, hidden, action)
    each_head = zip(*(both(head, hidden, action) for head in heads), strict=True)
    torch.testing.assert_close(found, tuple(torch.stack(x) for x in each_head))
    for argument in (0, 1):
        slope = torch.func.grad(loss, argument)
        each = torch.func.vmap(slope, (None, 0, 0))(heads[0], hidden, action)
        rows = zip(hidden, action, strict=True)
        torch.testing.assert_close(each, torch.stack([slope(heads[0], *row) for row in rows]))


def test_transforms_map_many_rows_at_once() -> None:
    """Those of all calls are one batch, whichever axis is mapped; by a head that is mapped too, one call each."""
    hidden, head = torch.randn(3, 4, 2).double(), torch.randn(5, 2).double()
    action = torch.arange(12).view(3, 4) % 5
    found = linear_log_prob(hidden, head, action)
    close(torch.func.vmap(linear_log_prob, (0, None, 0))(hidden, head, action).log_prob, found.log_prob)
    turned = torch.func.vmap(linear_log_prob, (1, None, 1))(hidden, head, action)
    close(turned.log_normalizer, found.log_normalizer.T)

    def slope(hidden: Tensor, head: Tensor, action: Tensor) -> Tensor:
        return torch.func.grad(lambda x: linear_log_prob(x, head, action).log_normalizer.square().sum())(hidden)

    close(torch.func.vmap(slope, (0, None, 0))(hidden, head, action), slope(hidden, head, action))
    heads = torch.stack([head, 2 * head])
    each = torch.stack([slope(hidden[0], one, action[0]) for one in heads])
    close(torch.func.vmap(slope, (None, 0, None))(hidden[0], heads, action[0]), each)


def test_the_classes_of_one_part_are_numbered_from_its_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here of three behind four, before what the others have is joined to it."""
    part = ranks.Part(None, torch.tensor(4), torch.tensor(7))
    monkeypatch.setattr(projection, "part_of", lambda head, group: part)
    monkeypatch.setattr(projection, "joined", lambda *x: x[:3])
    hidden, head = torch.randn(3, 2).double(), torch.randn(3, 2).double()
    log_prob, _ = projection.project("f", hidden, head, None, None, torch.tensor([4, 6, 5]), 2, "group")
    close(log_prob, (hidden @ head.mT).log_softmax(-1)[torch.arange(3), torch.tensor([0, 2, 1])])


def test_checkpointing_and_autocast() -> None:
    """A gradient that is made in an autocast region, or after a checkpoint, is the plain one."""
    layer, head, action = torch.nn.Linear(3, 3), torch.randn(5, 3, requires_grad=True), torch.tensor([1, 2])
    x = torch.randn(2, 3)

    def loss(x: Tensor) -> Tensor:
        return linear_nll_loss(layer(x), head, action)

    plain = torch.autograd.grad(loss(x), head)[0]
    again: Tensor = checkpoint(loss, x, use_reentrant=False)
    close(torch.autograd.grad(again, head)[0], plain)
    hidden = layer(x).detach()
    with torch.autocast("cpu", torch.bfloat16):
        close(torch.autograd.grad(linear_nll_loss(hidden, head, action), head)[0], plain)


def test_nothing_is_zero_and_one_class_is_certain() -> None:
    """An empty batch, a batch that is masked away, and a head of one class."""
    head = torch.randn(5, 3, requires_grad=True)
    loss = linear_nll_loss(torch.zeros(0, 3), head, torch.zeros(0, dtype=torch.int64))
    assert loss == 0
    assert (torch.autograd.grad(loss, head)[0] == 0).all()
    hidden, ignored = torch.full((2, 3), torch.nan), torch.tensor([-100, 5])
    loss = linear_nll_loss(hidden, head, ignored, mask=torch.zeros(2, dtype=torch.bool))
    assert loss == 0
    assert (torch.autograd.grad(loss, head)[0] == 0).all()
    sure = linear_log_prob(torch.randn(3), torch.randn(1, 3), torch.tensor(0))
    assert sure.log_prob == 0


def test_memory_grows_with_neither_rows_nor_classes() -> None:
    """Forward and backward hold a few tiles of 4 MiB beside the gradients, where all logits are 312 MiB."""
    code = """
import resource, torch
from offline_losses import linear_nll_loss
torch.set_num_threads(1)
def peak():
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
hidden, head = torch.randn({rows}, 64, requires_grad=True), torch.randn({classes}, 64, requires_grad=True)
action = torch.randint({classes}, ({rows},))
linear_nll_loss(hidden[:2], head[:9], action[:2] % 9).backward()
hidden.grad = head.grad = None
open("/proc/self/clear_refs", "w").write("5")
before = peak()
linear_nll_loss(hidden, head, action).backward()
print(peak() - before - (hidden.numel() + head.numel()) * 4 / 2**20)
"""

    def excess(rows: int, classes: int) -> float:
        program = [sys.executable, "-c", code.format(rows=rows, classes=classes)]
        return float(subprocess.run(program, capture_output=True, text=True, check=True).stdout)

    assert excess(2048, 40_000) < 20


SHARDED = """
import os
import sys
from datetime import timedelta

import torch
from torch import distributed

from offline_losses import linear_cql_penalty, linear_log_prob, linear_nll_loss

rank, ranks, place = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
distributed.init_process_group(
    "gloo", init_method=f"file://{place}", rank=rank, world_size=ranks, timeout=timedelta(seconds=30)
)
torch.manual_seed(0)
counted = []
for name in ("all_gather_into_tensor", "all_reduce", "all_gather", "broadcast", "reduce_scatter_tensor"):
    real = getattr(distributed, name)
    setattr(distributed, name, lambda *a, real=real, name=name, **k: counted.append(name) or real(*a, **k))
hidden, head, bias = (torch.randn(*shape, dtype=torch.float64) for shape in ((6, 3), (11, 3), (11,)))
bias[2] = -torch.inf
action, mask = torch.tensor([0, 1, 4, 7, 9, -100]), torch.tensor([True] * 5 + [False])
sizes = [[11], [4, 7], [2, 9, 0]][ranks - 1]
mine = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))


def run(group, part):
    x = [each.clone().requires_grad_() for each in (hidden, head[part], bias[part], torch.tensor(0.7).double())]
    options = {"bias": x[2], "temperature": x[3], "chunk": 3, "group": group}
    log_prob, log_normalizer = linear_log_prob(x[0], x[1], action.clamp(min=0), **options)
    forward = len(counted)
    (log_prob.sum() + log_normalizer.square().sum()).backward()
    seen = counted[:forward], counted[forward:]
    losses = [f(x[0], x[1], action, **options, mask=mask) for f in (linear_cql_penalty, linear_nll_loss)]
    sum(losses).backward()
    return [log_prob, log_normalizer, *losses, x[0].grad, x[1].grad, x[2].grad, x[3].grad], seen


whole, _ = run(None, slice(None))
counted.clear()
found, seen = run(distributed.group.WORLD, mine)
assert [len(each) for each in seen] == [2, 1], seen
whole[5], whole[6] = whole[5][mine], whole[6][mine]
for one, other in zip(found, whole):
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
x = [each.clone().requires_grad_() for each in (hidden, head[mine])]
rows, heads = torch.stack([hidden, 1 - hidden]), torch.stack([head, 2 * head])
for way in ((0, None), (None, 0)):  # more rows, and several heads
    given = [r if d == 0 else r[0] for r, d in zip((rows, heads), way)]
    loss = lambda h, w, group=None: linear_nll_loss(h, w, action, mask=mask, group=group)
    slopes = torch.func.vmap(torch.func.grad_and_value(loss), way)(*given)
    given[1] = given[1][..., mine, :]
    found = torch.func.vmap(torch.func.grad_and_value(lambda h, w: loss(h, w, distributed.group.WORLD)), way)(*given)
    torch.testing.assert_close(found, slopes)
if torch.__version__ >= "2.13":
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (ranks,))
    full = lambda x: x.full_tensor() if hasattr(x, "placements") else x
    for placed in (None, Replicate(), Shard(0)):  # the rows that meet a head of divided classes
        spread = [x if placed is None else distribute_tensor(x, mesh, [placed], src_data_rank=None)
                  for x in (hidden, action, mask)]
        divided = distribute_tensor(head, mesh, [Shard(0)], src_data_rank=None)
        found, alone = [], []
        for results, h, w, a, m in ((found, spread[0], divided, *spread[1:]), (alone, hidden, head, action, mask)):
            x = [each.clone().requires_grad_() for each in (h, w, bias, torch.tensor(0.7).double())]
            options = {"bias": x[2], "temperature": x[3], "chunk": 3, "mask": m}
            counted.clear()
            losses = [f(x[0], x[1], a, **options) for f in (linear_cql_penalty, linear_nll_loss)]
            assert len(counted) == (0 if w is head or placed == Shard(0) else 4), counted
            sum(losses).backward()
            results += [full(each) for each in (*losses, *(each.grad for each in x))]
            assert hasattr(losses[0], "placements") == hasattr(h, "placements")
        torch.testing.assert_close(found, alone, rtol=1e-12, atol=1e-12)
    try:
        linear_nll_loss(hidden, divided, action.clamp(min=0), group=distributed.group.WORLD)
    except ValueError as error:
        assert "linear_nll_loss: group: expected None beside DTensors" in str(error)
    else:
        raise AssertionError("a group was taken beside a DTensor")
try:
    linear_nll_loss(hidden, head[mine], torch.full((6,), 11), group=distributed.group.WORLD)
except ValueError as error:
    assert "expected classes in [0, 11), got 11" in str(error)
else:
    raise AssertionError("an action out of range was taken")
distributed.barrier()
os._exit(0)  # Gloo's threads may still hold tensors, and abort an interpreter that is being finalized.
"""


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_head_that_is_divided_among_processes(ranks: int, tmp_path: Path) -> None:
    """Uneven parts give what the whole head gives, in value and in every gradient, by two collectives and one."""
    given = [sys.executable, "-c", SHARDED]
    runs = [
        subprocess.Popen([*given, str(rank), str(ranks), str(tmp_path / "store")], stderr=subprocess.PIPE, text=True)
        for rank in range(ranks)
    ]
    try:
        said = [run.communicate(timeout=50)[1] for run in runs]
    finally:
        for run in runs:
            run.kill()
    assert [run.returncode for run in runs] == [0] * ranks, said


def test_a_head_that_does_not_fit() -> None:
    """In its size, its axes or its device; the words name the size of the hidden states."""
    hidden, action = torch.zeros(2, 5, 3), torch.zeros(2, 5, dtype=torch.int64)
    for head in (torch.zeros(6, 4), torch.zeros(3), torch.zeros(6, 3, 3), torch.zeros(0, 3)):
        with pytest.raises(ValueError, match=r"linear_nll_loss: head: expected shape \[V, 3\] of at least one class"):
            linear_nll_loss(hidden, head, action)
    with pytest.raises(ValueError, match="linear_nll_loss: head: expected a tensor on cpu as hidden is, got meta"):
        linear_nll_loss(hidden, torch.zeros(6, 3, device="meta"), action)
    with pytest.raises(ValueError, match="linear_nll_loss: bias: expected shape"):
        linear_nll_loss(hidden, torch.zeros(6, 3), action, bias=torch.zeros(3))
    with pytest.raises(ValueError, match="linear_nll_loss: hidden: expected a last axis of at least one dimension"):
        linear_nll_loss(hidden[..., :0], torch.zeros(6, 0), action)
    masked = linear_nll_loss(hidden, torch.zeros(1, 3), action + 7, mask=action > 0)
    assert masked == 0


def test_a_bias_and_a_temperature_for_each_sample() -> None:
    """Each row by itself gives the same numbers."""
    hidden, head, bias = torch.randn(2, 5, 3).double(), torch.randn(6, 3).double(), torch.randn(6).double()
    action, temperature = torch.arange(10).view(2, 5) % 6, 0.3 + torch.rand(2, 5, dtype=torch.float64)
    found = linear_log_prob(hidden, head, action, bias=bias, temperature=temperature)
    for i in range(2):
        for k in range(5):
            knobs = {"bias": bias, "temperature": temperature[i, k]}
            one = linear_log_prob(hidden[i, k], head, action[i, k], **knobs)
            close(found.log_prob[i, k], one.log_prob)
            close(found.log_normalizer[i, k], one.log_normalizer)
