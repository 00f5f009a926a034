"""Products that run side by side become one: the same numbers, and nothing joined that may not be."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import linear

from benchmarks import updates
from benchmarks.networks import Networks, fixed_batch
from offline_losses import compile_update
from offline_losses._compile import private
from offline_losses._compile.switches import switched_off

pytestmark = pytest.mark.skipif(switched_off() is not None, reason="the compiler is switched off")
aten = torch.ops.aten
CPU = torch.device("cpu")
KINDS = {aten.mm.default: "single", aten.addmm.default: "single", aten.bmm.default: "joined"}


def joined(function: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> Counter[str]:
    """How many products of each kind are left, after the results were compared."""
    from offline_losses._compile.card import BatchProducts

    module = make_fx(function, tracing_mode="fake")(*inputs)
    BatchProducts()(module.graph)
    module.recompile()
    for actual, expected in zip(module(*inputs), function(*inputs), strict=True):
        torch.testing.assert_close(actual, expected)
    return Counter(KINDS[node.target] for node in module.graph.nodes if node.target in KINDS)


def test_networks_side_by_side_take_the_products_of_one() -> None:
    """Three networks with their gradients: two layers forward, and backward to both weights and between them."""
    torch.manual_seed(0)
    networks = [[torch.randn(shape, requires_grad=True) for shape in ((7, 5), (7,), (2, 7), (2,))] for _ in range(3)]

    def gradients(x: Tensor, *weights: Tensor) -> Sequence[Tensor]:
        networks = [weights[4 * i : 4 * i + 4] for i in range(3)]
        outputs = [linear(linear(x, *network[:2]).tanh(), *network[2:]) for network in networks]
        return torch.autograd.grad([output.square().sum() for output in outputs], weights)

    assert joined(gradients, torch.randn(4, 5), *itertools.chain(*networks)) == {"joined": 5}


def test_networks_of_other_widths_share_what_is_alike() -> None:
    """The first layers differ, the second do not; the second of one is written before the first of the other."""

    def both(x: Tensor, wide: Tensor, narrow: Tensor, second: Tensor) -> Sequence[Tensor]:
        first = (x @ wide).relu() @ second
        return first, (x[:, :3] @ narrow).relu() @ second.sin()

    x, wide, narrow, second = (torch.randn(shape) for shape in ((4, 5), (5, 6), (3, 6), (6, 2)))
    assert joined(both, x, wide, narrow, second) == {"single": 2, "joined": 1}


def chain(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Three products of equal shapes, each of the last."""
    for _ in range(3):
        x = x @ y
        yield x


def two(x: Tensor, y: Tensor) -> Sequence[Tensor]:
    """Two products that need nothing of each other."""
    return x @ y, x.sin() @ y.cos()


def with_a_bias(x: Tensor, y: Tensor) -> Sequence[Tensor]:
    """The same, of a layer."""
    return [torch.addmm(b, x, y) for b in (y[0], y[1])]


@pytest.mark.parametrize(
    ("function", "size", "dtype", "expected"),
    [
        (lambda x, y: list(chain(x, y)), 3, torch.float32, {"single": 3}),
        (two, 512, torch.float32, {"joined": 1}),
        (two, 513, torch.float32, {"single": 2}),
        (two, 3, torch.bfloat16, {"joined": 1}),
        (with_a_bias, 3, torch.float64, {"joined": 1}),
        (with_a_bias, 3, torch.bfloat16, {"single": 2}),
        (lambda x, y: [torch.addmm(y[0], x, y, beta=b) for b in (0.5, 2)], 3, torch.float32, {"single": 2}),
        (lambda x, y: [torch.addmm(b, x, y) for b in (x, y)], 3, torch.float32, {"single": 2}),
        (lambda x, y: [torch.addmm(b, x, y) for b in (y[0], y[0, :1])], 3, torch.float32, {"single": 2}),
        (lambda x, y: [x @ y.t().t(), x @ y.tanh().t()], 3, torch.float32, {"joined": 1}),
        (lambda x, y: [x @ y.t().t(), x @ y.t().t().t().t()], 3, torch.float32, {"joined": 1}),
        (lambda x, y: [x @ y.t(), x @ y.t().t().t()], 3, torch.float32, {"joined": 1}),
        (lambda x, y: [x @ y, x.sin() @ y[:, :2]], 3, torch.float32, {"single": 2}),
    ],
    ids=[
        *("a chain", "small", "large", "16 bits", "a bias", "a bias in 16 bits", "factors", "a matrix", "one number"),
        *("turned back", "turned back twice", "turned again", "other shapes"),
    ],
)
def test_what_is_joined(
    function: Callable[..., Sequence[Tensor]], size: int, dtype: torch.dtype, expected: dict[str, int]
) -> None:
    """Small products of the same shapes that need nothing of each other; a bias is not rounded once more."""
    torch.manual_seed(0)
    assert joined(function, *torch.randn(2, size, size, dtype=dtype)) == expected


def test_one_large_matrix_is_enough() -> None:
    """A column more than is small."""
    assert joined(two, torch.randn(512, 512), torch.randn(512, 2)) == {"joined": 1}
    assert joined(two, torch.randn(512, 513), torch.randn(513, 2)) == {"single": 2}


@pytest.mark.parametrize(
    ("function", "turned"),
    [
        (lambda x: x.t(), True),
        (lambda x: x.permute(1, 0), True),
        (lambda x: x.permute(0, 1), False),
        (lambda x: x.neg(), False),
        (lambda x: x.sum(1), False),
    ],
)
def test_a_matrix_that_is_turned(function: Callable[[Tensor], Tensor], turned: bool) -> None:
    """By either operator."""
    from offline_losses._compile.card import _turned

    graph = make_fx(function)(torch.rand(2, 3)).graph
    *_, node, _ = graph.nodes
    assert _turned(node) is turned


def test_options_of_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums are divided where the largest tensor has eight times what is large; a pass of the user's stays."""
    from offline_losses._compile import card

    for size, split in ((8 * card.LARGE - 1, False), (8 * card.LARGE, True)):
        options = card.options_of_card([torch.empty(3), torch.empty(size, device="meta"), 10 * card.LARGE])
        assert isinstance(options.pop("post_grad_custom_pre_pass"), card.BatchProducts)
        assert options == {"combo_kernels": True, "split_reductions": split}
    own = card.BatchProducts()
    monkeypatch.setattr(card.CARD.config, "post_grad_custom_pre_pass", own)
    assert card.options_of_card([torch.empty(3)])["post_grad_custom_pre_pass"] is own


def test_random_numbers_keep_their_order() -> None:
    """Products of what is drawn are joined nowhere: joining moves operators about."""

    def noisy(x: Tensor, y: Tensor) -> Tensor:
        return two(x + torch.rand_like(x), y)

    from offline_losses._compile.card import BatchProducts

    graph = make_fx(noisy)(*torch.randn(2, 3, 3)).graph
    BatchProducts()(graph)
    assert sum(node.target is aten.mm.default for node in graph.nodes) == 2


@pytest.mark.skipif(private.BACKWARD.missing() is not None, reason="no update is whole")
def test_an_update_is_the_same() -> None:
    """With the options of a card, here on the CPU: fewer products, and the losses of five updates."""
    from offline_losses._compile.card import BatchProducts, options_of_card

    passes: list[int] = []

    class Watched(BatchProducts):
        def __call__(self, graph: torch.fx.Graph) -> None:
            super().__call__(graph)
            passes.append(sum(node.target in KINDS for node in graph.nodes))

    eager, step = updates.iql(Networks(CPU)), compile_update(updates.iql(Networks(CPU)))
    options = options_of_card(fixed_batch(CPU))
    assert isinstance(options["post_grad_custom_pre_pass"], BatchProducts)
    options |= {"post_grad_custom_pre_pass": Watched(), "fx_graph_cache": False}
    with torch._inductor.config.patch(options):
        for _ in range(5):
            expected, actual = eager(*fixed_batch(CPU)), step(*fixed_batch(CPU))
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
    assert len(updates.products("IQL")) == 41
    assert passes == [13]
