"""On a card: the same values, no synchronization, capture in a CUDA graph, and the compiled paths."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from ledger import CASES, Case, Knob, Values, leaves, total
from test_transforms import FULLEST
from test_update import Learner, assert_equal, batch
from torch import Tensor

import offline_losses
from offline_losses import compile_update, fused
from offline_losses._compile import graph, twin

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
each_case = pytest.mark.parametrize("case", CASES, ids=str)


def on_card(case: Case) -> dict[str, Any]:
    """The arguments on the card, knobs as 0-d tensors there."""
    return {
        name: value.cuda()
        if isinstance(value, Tensor)
        else torch.tensor(value).cuda()
        if name in case.of(Knob)
        else value
        for name, value in case.build(dtype=torch.float32).items()
    }


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not worth it for few elements is tested all the same, and a fallback to eager is a failure."""
    monkeypatch.setattr(twin, "SMALL_ON_CARD", 0)
    monkeypatch.setattr(graph, "said", set())
    warnings.filterwarnings("error", message="offline_losses.fused")


@each_case
def test_values_equal_float64_on_the_cpu(case: Case) -> None:
    """The card computes what the CPU computes in double precision."""
    inputs = {name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
              for name, value in case.build(dtype=torch.float32).items()}  # fmt: skip
    for actual, expected in zip(
        leaves(case.row.function(**on_card(case))), leaves(case.row.function(**inputs)), strict=True
    ):
        torch.testing.assert_close(actual.cpu(), expected.to(actual.dtype), rtol=1e-5, atol=1e-5)


@each_case
def test_nothing_waits_for_the_card(case: Case) -> None:
    """No function synchronizes."""
    inputs = on_card(case)
    case.row.function(**inputs)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        case.row.function(**inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@each_case
def test_a_cuda_graph_replays_it(case: Case) -> None:
    """Captured once and replayed on new data, it gives the new data's result."""
    inputs, new = on_card(case), case.build(dtype=torch.float32, seed=7)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        case.row.function(**inputs)
    torch.cuda.current_stream().wait_stream(side)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        captured = leaves(case.row.function(**inputs))
    for name, value in new.items():
        if isinstance(value, Tensor):
            inputs[name].copy_(value)
    recorded.replay()
    for actual, expected in zip(captured, leaves(case.row.function(**inputs)), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.usefixtures("generated")
@pytest.mark.parametrize("library", [offline_losses, fused], ids=["eager", "fused"])
def test_equal_episodes_tie_on_a_card(library: Any) -> None:
    """Whatever the order in which the card adds, so that the choice among them is by their place."""
    reward, count = torch.randn(301).cuda(), 200
    done = torch.zeros(count, 301, dtype=torch.bool).cuda()
    done[:, -1] = True
    flat = reward.repeat(count), done.flatten()
    assert library.episode_return(*flat, discount=0.99).unique().numel() == 1
    kept = library.return_filter(*flat, fraction=0.25, discount=0.99, by="episodes")
    assert kept.view(count, 301)[:, 0].nonzero().flatten().tolist() == list(range(count // 4))


@pytest.mark.usefixtures("generated")
@pytest.mark.parametrize("case", FULLEST, ids=str)
def test_fused_equals_eager_and_never_waits(case: Case) -> None:
    """The generated kernels give eager's values and gradients, and nothing waits for the card."""
    inputs = {
        name: value.cuda() if isinstance(value, Tensor) else value
        for name, value in case.build((5000,), dtype=torch.float32).items()
    }
    names = [name for name, argument in case.of(Values).items() if argument.gradient]

    def run(function: Any) -> list[Tensor]:
        inner = {name: inputs[name].clone().requires_grad_() for name in names}
        results = leaves(function(**{**inputs, **inner}))
        flowing = [result for result in results if result.requires_grad]
        gradients = torch.autograd.grad(total(flowing), list(inner.values())) if flowing else ()
        return [*(result.detach() for result in results), *gradients]

    function = getattr(fused, case.row.name)
    for actual, expected in zip(run(function), run(case.row.function), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        function(**inputs)
        for name, knob in case.of(Knob).items():  # a number that no graph has seen
            function(**{**inputs, name: knob.schedule[-1]})
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_large_gradient_is_written_once() -> None:
    """There is no copy of it to be scaled, and a scale other than one arrives."""
    q, target = torch.randn(2, 2**23, device="cuda")
    q.requires_grad_()
    (2 * fused.squared_loss(q, target)).backward()
    torch.testing.assert_close(q.grad, 4 * (q.detach() - target) / q.numel())
    del q.grad
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    fused.squared_loss(q, target).backward()
    assert torch.cuda.max_memory_allocated() - held < 1.1 * q.nbytes


def test_a_compiled_update_equals_eager() -> None:
    """Recorded in a CUDA graph and replayed, with a schedule of the learning rate and a hyper-parameter."""
    eager, learner = Learner().to("cuda"), Learner().to("cuda")
    step = compile_update(learner.update)
    kept = []
    for i in range(10):
        for one in (eager, learner):
            one.critic_optimizer.param_groups[0]["lr"] = 1e-2 / (i + 1)
        data = {name: x.cuda() for name, x in batch(i).items()}
        expected = eager.update(data, expectile=0.5 + 0.04 * i)
        torch.cuda.set_sync_debug_mode("error" if i > 3 else "default")  # recorded by then
        try:
            actual = step(data, expectile=0.5 + 0.04 * i)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        kept.append((expected, actual))
    for expected, actual in kept:
        for name in expected:
            torch.testing.assert_close(actual[name], expected[name].detach(), rtol=1e-3, atol=1e-5)
    assert_equal(eager, learner)
