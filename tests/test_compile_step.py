"""How an update goes from its first call to one graph, to parts, or stays eager; no code is generated here."""

from __future__ import annotations

import functools
import gc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.optim import SGD, Adam, Optimizer

from offline_losses import compile_update
from offline_losses._compile import backend, private, step, switches, whole

pytestmark = [
    pytest.mark.skipif(switches.switched_off() is not None, reason="the compiler is switched off"),
    pytest.mark.skipif(private.BACKWARD.missing() is not None, reason="no update is whole"),
]
X = torch.tensor([1.0, 2.0])


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What is compiled, operator by operator; a word that no test expects is a failure."""
    torch._dynamo.reset()
    found: list[Any] = []
    monkeypatch.setattr(backend, "compile_graph", lambda graph, inputs: found.append(graph) or graph.forward)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile_update")
        yield found


class Slope:
    """One parameter that goes down a slope, and what an update does besides."""

    word = ""

    def __init__(self, besides: Callable[[Slope, Tensor], Any] = lambda one, x: None) -> None:
        self.weight = nn.Parameter(torch.ones(2))
        self.optimizer: Optimizer = SGD([self.weight], 0.1)
        self.besides = besides

    def update(self, x: Tensor) -> Any:
        """One step."""
        self.optimizer.zero_grad()
        (self.weight * x).sum().backward()
        result = self.besides(self, x)
        self.optimizer.step()
        return result

    def at(self, calls: int) -> bool:
        """Whether it has gone so far."""
        return self.weight.allclose(1 - 0.1 * calls * X, atol=1e-6)


def test_from_the_second_call_on_one_graph_runs(graphs: list[Any]) -> None:
    """The first call runs as it is, and leaves no hook behind."""
    one = Slope()
    run = compile_update(one.update)
    before = len(modules._global_forward_pre_hooks)
    run(X)
    assert (len(graphs), len(modules._global_forward_pre_hooks)) == (0, before)
    for call in range(2, 6):
        run(X)
        assert one.at(call)
    assert len(graphs) == 1


def test_a_hook_on_a_gradient_is_told(graphs: list[Any]) -> None:
    """Such an update is compiled in parts, once."""
    one = Slope()
    run, seen = compile_update(one.update), []
    run(X)
    one.weight.register_hook(lambda g: seen.append(g.clone()))
    with pytest.warns(UserWarning, match="update is compiled in parts: a parameter has hooks on its gradient"):
        run(X)
    run(X)
    assert one.at(3)
    assert len(seen) == 2
    assert graphs


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_parts_are_compiled_around_what_cannot_be(graphs: list[Any]) -> None:
    """And the steps of optimizers are their own afterwards."""
    one = Slope(lambda one, x: print("besides"))
    run = compile_update(one.update)
    run(X)
    with pytest.warns(UserWarning, match="in parts: something is printed") as caught:
        run(X)
    assert caught[0].filename == __file__
    for call in range(3, 6):
        run(X)
        assert one.at(call)
        assert "step" not in vars(one.optimizer)
    assert graphs


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_step_that_was_replaced_stays_replaced() -> None:
    """In an update that is compiled in parts."""
    one, seen = Slope(lambda one, x: print("besides")), []
    own = one.optimizer.step

    @functools.wraps(own)
    def counted(*given: Any) -> Any:
        seen.append(None)
        return own(*given)

    vars(one.optimizer)["step"] = counted
    run = compile_update(one.update)
    run(X)
    with pytest.warns(UserWarning, match="in parts"):
        run(X)
    run(X)
    assert vars(one.optimizer)["step"] is counted
    assert len(seen) == 3
    assert one.at(3)


def test_distributed_gradients_are_exchanged_in_parts(tmp_path: Path) -> None:
    """Since hooks of the backward pass do that."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        net = nn.parallel.DistributedDataParallel(nn.Linear(2, 1))
        optimizer = SGD(net.parameters(), 0.1)

        def update(x: Tensor) -> None:
            optimizer.zero_grad()
            net(x).sum().backward()
            optimizer.step()

        with pytest.warns(UserWarning, match="in parts: DistributedDataParallel exchanges gradients in hooks"):
            compile_update(update)(X)
    finally:
        dist.destroy_process_group()


def test_new_optimizers_are_met_eight_times(graphs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the update runs eagerly, which is said; one more that comes late is simply met."""

    def renewed(one: Slope, x: Tensor) -> None:
        one.optimizer = SGD([one.weight], 0.1)

    one = Slope(renewed)
    run = compile_update(one.update)
    for call in range(1, 1 + step.NEW_OPTIMIZERS):
        run(X)
        assert one.at(call)
    with pytest.warns(UserWarning, match="runs eagerly: it makes new optimizers again and again"):
        run(X)
    monkeypatch.setattr(step.Step, "_in_turn", lambda *_: pytest.fail("it is traced again"))
    run(X)
    assert one.at(step.NEW_OPTIMIZERS + 2)
    assert not graphs


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_new_optimizers_are_not_blamed_for_the_eighth_failure() -> None:
    """Where that call makes none."""

    def renewed(one: Slope, x: Tensor) -> None:
        if len(one.word) < step.NEW_OPTIMIZERS:
            one.word += "x"
            one.optimizer = SGD([one.weight], 0.1)
        else:
            print("besides")

    one = Slope(renewed)
    run = compile_update(one.update)
    for _ in range(step.NEW_OPTIMIZERS):
        run(X)
    with pytest.warns(UserWarning, match="in parts: something is printed"):
        run(X)
    assert one.at(step.NEW_OPTIMIZERS + 1)


def test_an_optimizer_that_comes_late_is_met(graphs: list[Any]) -> None:
    """One call runs as it is, and the next ones as one graph."""
    one = Slope()
    run = compile_update(one.update)
    for _ in range(3):
        run(X)
    one.optimizer = SGD([one.weight], 0.1)
    for call in range(4, 8):
        run(X)
        assert one.at(call)
    assert len(graphs) == 2


def test_switched_off_for_a_while(graphs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The update itself runs meanwhile, which is said once."""
    one = Slope()
    run = compile_update(one.update)
    run(X)
    with torch.compiler.set_stance("force_eager"):
        with pytest.warns(UserWarning, match=r"^compile_update: update runs eagerly: .*force_eager"):
            run(X)
        run(X)
    assert not graphs
    run(X)
    assert one.at(4)
    assert len(graphs) == 1


def test_inside_of_another_compiled_function() -> None:
    """It is the update, and part of that graph."""
    run = compile_update(lambda x: x + 1)
    assert torch.compile(lambda x: run(x), backend="eager", fullgraph=True)(X).equal(X + 1)


def test_what_takes_long_is_told(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """After five seconds, on the error stream, with the name; a quick one tells nothing."""
    waited: list[Any] = []

    class Timer(step.Timer):  # type: ignore[name-defined, misc]
        def __init__(self, seconds: float, *given: Any) -> None:
            waited.append(seconds)
            super().__init__(seconds, *given)

        def start(self) -> None:
            waited.append("started")
            assert self.daemon
            if len(waited) > 3:
                self.function(*self.args, **self.kwargs)

        def cancel(self) -> None:
            waited.append("cancelled")

    monkeypatch.setattr(step, "Timer", Timer)
    for told in ("", "compile_update: compiling update ...\n"):
        one = Slope()
        run = compile_update(one.update)
        run(X)
        run(X)
        assert capfd.readouterr().err == told
    assert waited == [5.0, "started", "cancelled"] * 2


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (lambda f: f, "update"),
        (lambda f: functools.partial(f), "partial"),
        (lambda f: type("Agent", (), {"__call__": lambda self, x: f(x)})(), "Agent"),
    ],
)
def test_an_update_is_called_by_its_name(wrap: Callable[[Any], Any], name: str) -> None:
    """A function's own, or that of its class."""
    with torch.compiler.set_stance("force_eager"), pytest.warns(UserWarning, match=f"compile_update: {name} runs"):
        compile_update(wrap(Slope().update))(X)


def test_results_are_detached_and_stay() -> None:
    """Of the first call as of the later ones, within containers; what is no tensor is handed through."""
    one = Slope(lambda one, x: {"weight": [one.weight, one.weight * 2], "word": "loss"})
    run = compile_update(one.update)
    results = [run(X) for _ in range(3)]
    for call, result in enumerate(results):
        after, before = result["weight"]
        assert after.allclose(1 - 0.1 * (call + 1) * X)  # the parameter itself
        assert before.allclose(2 * (1 - 0.1 * call * X))
        assert result["word"] == "loss"
        assert not any(x.requires_grad for x in result["weight"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_numbers_among_the_arguments(dtype: torch.dtype, graphs: list[Any]) -> None:
    """Floats take new values in the same graph, in the precision of the parameters; others choose a graph."""
    weight = nn.Parameter(torch.zeros(2, dtype=dtype))
    optimizer = SGD([weight], 1.0)

    def update(scale: float, *, offset: float, count: int = 1) -> tuple[float, float]:
        optimizer.zero_grad()
        (weight * scale * count + weight * offset).sum().backward()
        optimizer.step()
        return scale, offset

    run, total = compile_update(update), torch.zeros(2, dtype=dtype)
    for i in range(5):
        scale, offset = 0.1 + 0.3 * i, 0.01 * i
        result = run(scale, offset=offset)
        assert result == (scale, offset)
        assert {type(number) for number in result} == {float}
        total -= torch.tensor(scale, dtype=dtype) + torch.tensor(offset, dtype=dtype)
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-15, torch.bfloat16: 0.1}[dtype]
    assert weight.allclose(total, rtol=tolerance)
    assert len(graphs) == 1 or dtype is torch.bfloat16
    before = len(graphs)
    run(1.0, offset=1.0, count=2)
    assert len(graphs) == before + 1


def test_numbers_by_name_alone(graphs: list[Any]) -> None:
    """They too take new values in the same graph."""
    run = compile_update(lambda x, *, scale: x * scale)
    for i in range(4):
        assert run(X, scale=0.5 * i).equal(0.5 * i * X)
    assert len(graphs) == 1


def test_the_rate_of_one_of_two_optimizers() -> None:
    """Comes back as a float."""
    one, other = Slope(lambda one, x: one.optimizer.param_groups[0]["lr"]), Slope()
    other.optimizer.param_groups[0]["lr"] = 0.3
    run = compile_update(lambda x: [one.update(x), other.update(x)])
    for _ in range(3):
        rate, _ = run(X)
        assert type(rate) is float
        assert rate == 0.1


def test_the_rate_comes_back_as_it_is_held() -> None:
    """A float where it is a float, for a scheduler's too."""
    one = Slope(lambda one, x: one.optimizer.param_groups[0]["lr"])
    run = compile_update(one.update)
    rates = []
    for i in range(4):
        one.optimizer.param_groups[0]["lr"] = 0.1 * (i + 1)
        rates.append(run(X))
    assert rates == [0.1, 0.2, pytest.approx(0.3), 0.4]
    assert {type(rate) for rate in rates} == {float}


def test_a_gradient_that_nobody_touches_stays() -> None:
    """The same tensor, though it comes in as an argument."""
    one, other = Slope(), nn.Parameter(torch.ones(2))
    group = SGD([other], 0.1)
    other.grad = kept = torch.full((2,), 5.0)

    def update(x: Tensor, both: bool) -> None:
        one.update(x)
        if both:
            group.step()

    run = compile_update(update)
    run(X, True)
    assert other.grad is kept
    for _ in range(3):
        run(X, False)
        assert other.grad is kept
    assert other.tolist() == [0.5, 0.5]


def test_what_was_dropped_is_forgotten_with_its_parameter() -> None:
    """Another tensor may have its place in memory."""
    one = Slope()
    run = compile_update(one.update)
    for _ in range(3):
        run(X)
    assert one.weight.grad is None
    assert id(one.weight) in whole._dropped
    known = id(one.weight)
    del one, run
    torch._dynamo.reset()
    gc.collect()
    assert known not in whole._dropped


def test_an_error_of_the_update_is_its_own(graphs: list[Any]) -> None:
    """It is raised as it is, and the next call is one more step."""
    one = Slope()
    run = compile_update(one.update)
    run(X)
    run(X)
    with pytest.raises(RuntimeError, match="The size of tensor a"):
        run(torch.ones(3))
    run(X)
    assert one.at(3)
    assert len(graphs) == 1


def test_five_compilations_in_a_row_are_enough(graphs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call that would need one runs as it is, and is told; known ones in between start the count anew."""
    one = Slope(lambda one, x: x * len(one.word))
    run = compile_update(one.update)
    run(X)
    for length in (1, 2, 3, 4, 1, 5, 6, 7, 8):
        one.word = "x" * length
        run(X)
    assert len(graphs) == 8
    one.word = "nine"
    run(X)
    assert len(graphs) == 9
    one.word = "ten"
    with pytest.warns(UserWarning, match=r"runs eagerly: .*word"):
        run(X)
    monkeypatch.setattr(step, "Untraced", ())  # so that another one is raised
    run(X)
    assert len(graphs) == 9
    assert one.at(13)


def test_moments_of_several_optimizers() -> None:
    """One that steps every time, and one that only clears."""
    weights = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizers: list[Optimizer] = [Adam([weights[0]], 0.1), SGD([weights[1]], 0.1)]

    def update(x: Tensor) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        (weights[0] * weights[1] * x).sum().backward()
        optimizers[0].step()

    run = compile_update(update)
    for _ in range(4):
        run(X)
    assert weights[0].allclose(torch.full((2,), 0.6))
    assert weights[1].tolist() == [1.0, 1.0]
    assert weights[1].grad is not None
    assert weights[1].grad.allclose(0.7 * X)
    assert weights[0].grad is None or weights[0].grad.allclose(X)


def test_adding_to_a_gradient_that_another_update_dropped_is_refused() -> None:
    """Of one parameter among two; and not where it was cleared by hand since."""
    weights = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizers = [SGD([weight], 0.1) for weight in weights]

    def clearing(x: Tensor) -> None:
        optimizers[0].zero_grad()
        (weights[0] * x).sum().backward()
        optimizers[0].step()

    def adding(x: Tensor) -> None:
        ((weights[0] + weights[1]) * x).sum().backward()
        for optimizer in optimizers:
            optimizer.step()

    one, other = compile_update(clearing), compile_update(adding)
    other(X)
    for optimizer in optimizers:
        optimizer.zero_grad()
    other(X)
    assert weights[0].grad is not None
    assert weights[0].grad.equal(X)
    for _ in range(3):
        one(X)
    before = [weight.clone() for weight in weights]
    with pytest.raises(RuntimeError, match=r"compile_update: gradients: expected .* Pass keep_gradients=True"):
        other(X)
    assert all(weight.equal(old) for weight, old in zip(weights, before, strict=True))


@pytest.mark.parametrize("keep", [True, False])
def test_gradients_that_are_there_and_that_are_not(keep: bool) -> None:
    """They accumulate as eager code would have them, each by itself."""

    def run(compiled: bool) -> list[Tensor | None]:
        weights = [nn.Parameter(torch.ones(2)) for _ in range(3)]
        optimizer = SGD(weights[:2], 0.01)
        weights[0].grad = torch.full((2,), 4.0)

        def update(x: Tensor) -> None:
            (weights[0] * x + weights[1] * x.square() + weights[2].detach()).sum().backward()
            optimizer.step()

        step = compile_update(update, keep_gradients=keep) if compiled else update
        for _ in range(4):
            step(X)
        return [*(weight.grad for weight in weights), *(weight.detach() for weight in weights)]

    for one, other in zip(run(True), run(False), strict=True):
        assert (one is None) == (other is None)
        assert one is None or other is None or one.allclose(other)


def test_an_update_of_no_parameter(graphs: list[Any]) -> None:
    """Is a function like any other; a number comes back as one."""
    run = compile_update(lambda x, scale: (x * scale, scale))
    for i in range(4):
        result, scale = run(X, 0.5 * i)
        assert result.equal(0.5 * i * X)
        assert scale == 0.5 * i
    assert len(graphs) == 1


def test_a_gradient_of_a_module_without_an_optimizer() -> None:
    """It comes in as the others do, and goes out."""
    net, one = nn.Linear(2, 1), Slope()

    def update(x: Tensor) -> None:
        one.update(x)
        net(x).sum().backward()

    run = compile_update(update)
    for calls in range(1, 6):
        run(X)
        assert net.weight.grad is not None
        assert net.weight.grad.allclose(calls * X)
    assert one.at(5)


@pytest.mark.parametrize("steps", [False, True])
def test_a_parameter_that_is_frozen_loses_its_gradient(steps: bool) -> None:
    """Where the module clears it, whether an optimizer holds the parameter or none does."""
    net = nn.Linear(2, 1)
    optimizer = SGD(net.parameters(), 0.1)

    def update(x: Tensor, step: bool) -> None:
        net.zero_grad()
        net(x).sum().backward()
        if step:
            optimizer.step()

    run = compile_update(update)
    for call in range(7):
        if call == 3:
            net.weight.requires_grad_(False)
        run(X, steps and call % 2 == 1)
        assert net.bias.grad is not None
        assert net.bias.grad.item() == 1.0
        assert net.weight.grad is None if call >= 3 else net.weight.grad.equal(X[None])


def test_a_hook_on_a_gradient_that_there_is_not(graphs: list[Any]) -> None:
    """It changes nothing: the module only computes."""
    one, net = Slope(), nn.Linear(2, 1)
    net.weight.register_hook(lambda g: g * 2)

    def update(x: Tensor) -> Tensor:
        one.update(x)
        with torch.no_grad():
            return net(x)

    run = compile_update(update)
    for _ in range(4):
        run(X)
    assert one.at(4)
    assert len(graphs) == 1


def test_all_gradients_are_kept_where_one_is_read() -> None:
    """Of the parameters that are cleared too."""
    one, other = Slope(), Slope()

    def update(x: Tensor) -> None:
        one.update(x)
        (other.weight * x).sum().backward()
        other.optimizer.step()

    run = compile_update(update)
    for calls in range(1, 5):
        run(X)
        assert one.weight.grad is not None
        assert one.weight.grad.equal(X)
        assert other.weight.grad is not None
        assert other.weight.grad.equal(calls * X)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_derivative_of_a_gradient_is_not_compiled_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs eagerly, and is not traced again."""

    def penalized(one: Slope, x: Tensor) -> None:
        x = x.clone().requires_grad_()
        slope = torch.autograd.grad((x * x * 0.0).sum(), x, create_graph=True)[0]
        slope.sum().backward()
        print("besides")

    one = Slope(penalized)
    run = compile_update(one.update)
    run(X)
    with pytest.warns(UserWarning, match="runs eagerly: something is printed .* it differentiates a gradient"):
        run(X)
    monkeypatch.setattr(step.Step, "_in_turn", lambda *_: pytest.fail("it is traced again"))
    run(X)
    assert one.at(3)


@pytest.mark.parametrize(
    ("group", "told"),
    [("BACKWARD", "is compiled in parts: PyTorch .* has no torch.nothing, with which"), ("UPDATE", "runs eagerly: ")],
)
def test_a_version_without_a_name(group: str, told: str, monkeypatch: pytest.MonkeyPatch, graphs: list[Any]) -> None:
    """Says which, once."""
    monkeypatch.setattr(step, group, private.Names(nothing="torch:nothing"))
    one = Slope()
    run = compile_update(one.update)
    with pytest.warns(UserWarning, match=f"{told}.*nothing" if group == "UPDATE" else told):
        run(X)
    for _ in range(2):
        run(X)
    assert one.at(3)
    assert bool(graphs) == (group == "BACKWARD")


def test_hooks_of_an_optimizer_are_told(graphs: list[Any]) -> None:
    """They run, around an update in parts."""
    one, seen = Slope(), []
    one.optimizer.register_step_post_hook(lambda *_: seen.append(None))
    run = compile_update(one.update)
    run(X)
    with pytest.warns(UserWarning, match="in parts: SGD has hooks on its steps"):
        run(X)
    run(X)
    assert one.at(3)
    assert len(seen) == 3
    assert graphs


class Own(SGD):
    """An optimizer of somebody's own."""


def test_an_optimizer_of_another_kind_is_told(graphs: list[Any]) -> None:
    """As soon as it is met; it steps as it is, between parts."""
    one = Slope()
    one.optimizer = Own([one.weight], 0.1)
    run = compile_update(one.update)
    with pytest.warns(UserWarning, match="in parts: Own has no form that can be traced"):
        run(X)
    for _ in range(2):
        run(X)
    assert one.at(3)
    assert graphs


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("late", [False, True], ids=["before the step", "after it"])
@pytest.mark.parametrize("kind", [SGD, Adam])
def test_a_rate_that_is_written_in_parts_changes_nothing_else(kind: Any, late: bool) -> None:
    """Of the group's settings; Dynamo would set `capturable` too."""

    def written(one: Slope, x: Tensor) -> None:
        one.optimizer.param_groups[0]["lr"] = 0.05
        print("besides")

    one = Slope() if late else Slope(written)
    one.optimizer = kind([one.weight], 0.1)
    before = {**one.optimizer.param_groups[0], "lr": 0.05}

    def update(x: Tensor) -> None:
        one.update(x)
        if late:
            written(one, x)

    run = compile_update(update)
    run(X)
    with pytest.warns(UserWarning, match="in parts"):
        run(X)
    for _ in range(2):
        run(X)
        assert one.optimizer.param_groups[0] == before


def test_another_graph_of_an_update_that_reads_its_rate(graphs: list[Any]) -> None:
    """Has its gradients too, whatever the first trace wrote onto the parameters."""
    one = Slope(lambda one, x: (one.optimizer.param_groups[0]["lr"], one.word))
    run = compile_update(one.update)
    for call, word in enumerate(("", "", "other", "", "other"), 1):
        one.word = word
        assert run(X) == (0.1, word)
        assert one.at(call)
    assert len(graphs) == 2


def test_gradients_before_a_call_whose_trace_fails() -> None:
    """Are there when it runs as it is."""
    one = Slope()

    def adding(x: Tensor, word: str) -> None:
        (one.weight * x).sum().backward()
        if word:
            print(word)

    run = compile_update(adding)
    for calls in range(1, 3):
        run(X, "")
        assert one.weight.grad is not None
        assert one.weight.grad.allclose(calls * X)
    with pytest.warns(UserWarning, match="in parts: something is printed"):
        run(X, "three")
    assert one.weight.grad is not None
    assert one.weight.grad.allclose(3 * X)


def test_a_group_that_one_of_two_optimizers_gets_later() -> None:
    """Its parameters are stepped from then on."""
    one, late = Slope(), nn.Parameter(torch.ones(2))
    other = SGD([nn.Parameter(torch.ones(2))], 0.1)

    def update(x: Tensor) -> None:
        one.update(x)
        other.zero_grad()
        for group in other.param_groups:
            (group["params"][0] * x).sum().backward()
        other.step()

    run = compile_update(update)
    for _ in range(3):
        run(X)
    other.add_param_group({"params": [late], "lr": 0.2})
    for calls in range(1, 4):
        run(X)
        assert late.allclose(1 - 0.2 * calls * X, atol=1e-6)
    assert late.grad is None  # dropped as the others are
    assert one.at(6)


def test_what_is_dropped_and_what_is_handed_out() -> None:
    """Of one call: the gradient that its optimizer clears is gone, one that is cleared by hand may grow elsewhere."""
    one, other = Slope(), Slope()

    def update(x: Tensor) -> None:
        one.update(x)
        other.weight.grad = None
        (other.weight * x).sum().backward()
        other.optimizer.step()

    def adding(x: Tensor) -> None:
        (other.weight * x).sum().backward()
        other.optimizer.step()

    run, add = compile_update(update), compile_update(adding)
    for calls in range(1, 5):
        run(X)
        assert calls == 1 or one.weight.grad is None
        assert other.weight.grad is not None
        assert other.weight.grad.equal(X)
    assert id(one.weight) in whole._dropped
    assert id(other.weight) not in whole._dropped
    for calls in range(2, 5):
        add(X)
        assert other.weight.grad.allclose(calls * X)


def test_a_gradient_that_was_dropped_is_handed_out_again() -> None:
    """By another update, after which a third may add to it."""
    one = Slope()
    stepping = compile_update(one.update)

    def clearing(x: Tensor) -> None:
        one.weight.grad = None  # by hand, so that it is kept
        (one.weight * x).sum().backward()
        one.optimizer.step()

    def adding(x: Tensor) -> None:
        (one.weight * x).sum().backward()
        one.optimizer.step()

    clear, add = compile_update(clearing), compile_update(adding)
    one.optimizer.zero_grad()
    add(X)
    for _ in range(3):
        stepping(X)
        clear(X)
    assert one.weight.grad is not None
    assert one.weight.grad.equal(X)
    for calls in range(2, 5):
        add(X)
        assert one.weight.grad.allclose(calls * X)
    for update in (lambda: None, lambda: (stepping(X), clear(X))):
        update()
        one.optimizer.zero_grad()  # by hand, so that nothing is there
        add(X)
        assert one.weight.grad.equal(X)


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_numbers_beside_parameters_of_two_kinds(dtypes: tuple[torch.dtype, ...]) -> None:
    """They have the precision of the better one."""
    weights = {dtype: nn.Parameter(torch.zeros(1, dtype=dtype)) for dtype in dtypes}
    optimizer = SGD(weights.values(), 1.0)

    def update(scale: float) -> None:
        optimizer.zero_grad()
        torch.cat([weight * scale for weight in weights.values()]).sum().backward()
        optimizer.step()

    run = compile_update(update)
    for _ in range(3):
        run(0.1)
    assert abs(weights[torch.float64].item() + 0.3) < 1e-15


def test_numbers_stay_numbers_beside_16_bits() -> None:
    """A tensor would raise the dtype of what it is multiplied with."""
    weights = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))]
    optimizer = SGD(weights, 1.0)

    def update(scale: float) -> Tensor:
        optimizer.zero_grad()
        loss = (weights[1] * scale).sum()
        (loss + weights[0].sum()).backward()
        optimizer.step()
        return loss

    run = compile_update(update)
    for _ in range(4):
        assert run(0.5).dtype == torch.bfloat16
