"""Every fused function against its eager twin: values, gradients, errors, few graphs, and what cannot be compiled."""

from __future__ import annotations

import inspect
import math
import pickle
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from ledger import CASES, LEDGER, MULTIPLIERS, OF_RUNS, TOOLS, UPDATES, Case, Knob, Row, Values, leaves, total
from test_errors import wrong_inputs
from test_transforms import FULLEST, MAIN, schedule
from torch import Tensor
from torch._dynamo.utils import counters
from torch.fx import GraphModule, Interpreter

import offline_losses
from offline_losses import fused
from offline_losses._compile import graph, passes, private, switches, twin
from offline_losses._core import tracing

NAN = float("nan")
BATCHES = [1, 2, 3, 17, 256, 300, 4096]
HALF_AND_DOUBLE = [torch.bfloat16, torch.float64]
thorough = pytest.mark.thorough
FIRST = set({row.function.__module__: row.name for row in reversed(LEDGER)}.values())
KINDS = {
    "soft_value",
    "gaussian_log_prob",
    "mmd_penalty",
    "two_hot",
    "observation_moments",
    "relabel_return",
    "ips_value",
}
"""Loops of another kind than those of the main functions: exponentials and logarithms, sums of squares, products of
matrices, places that are looked up, statistics, recurrences and episodes."""


def each(chosen: set[str] | None = None, among: Sequence[Case] = CASES) -> pytest.MarkDecorator:
    """Every function that has generated code; of those that are not chosen only with --compile-all."""
    cases = [case for case in FULLEST if case in among and not case.row.as_it_is]
    rest = [] if chosen is None else [case for case in cases if case.row.name not in chosen]
    marked = [pytest.param(case, marks=thorough) if case in rest else case for case in cases]
    return pytest.mark.parametrize("case", marked, ids=str)


each_function = each()


LEFT_TO_EAGER = {
    "double_q_target",
    "best_of_n",
    "top_fraction_weights",
    "advantage_indicator",
    "interquartile_mean",
    "weighted_per_decision_value",
    "weighted_doubly_robust_value",
    "return_threshold",
    "episode_return",
}
"""What the compiler's loops for the CPU would slow down, at most batch sizes."""

_eager_to_compile: dict[tuple[str, Any], Callable[..., Any]] = {}


def fused_twin(case: Case) -> Callable[..., Any]:
    """A fused function that generates code for small inputs too, where the public one runs the function itself."""
    key = case.row.name, private.COMPILER.compile_fx_inner
    if key not in _eager_to_compile:
        _eager_to_compile[key] = twin.fuse(case.row.function)
    return _eager_to_compile[key]


def operator_by_operator(graph: GraphModule, _: Any) -> Callable[[list[Tensor]], Any]:
    """Stands for the generator of code, which takes a second and more for each graph: runs the graph as it is."""
    return lambda inputs: Interpreter(graph).run(*inputs)


@pytest.fixture
def _little_code(request: pytest.FixtureRequest, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generate code for the main functions only; `--compile-all` does it for all, and so does `-k`."""
    if case.row.name not in MAIN and not request.config.getoption("--compile-all"):
        monkeypatch.setattr(private.COMPILER, "compile_fx_inner", operator_by_operator)


def no_less_exact(case: Case, batch: int) -> None:
    """In float32, the error of values and gradients against float64 is eager's up to rounding."""
    inputs = case.build((batch,), dtype=torch.float32, seed=batch)
    wide = {name: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for name, x in inputs.items()}
    exact = with_gradients(case.row.function, case, wide)
    eager, actual = (with_gradients(f, case, inputs) for f in (case.row.function, fused_twin(case)))
    for one, other, truth in zip(actual, eager, exact, strict=True):
        if one is None or other is None or truth is None:
            assert one is other is truth
        elif one.dtype == torch.bool:
            assert torch.equal(one, other)
        elif one.numel():
            assert one.dtype == other.dtype
            finite = truth.isfinite()
            torch.testing.assert_close(one[~finite].double(), truth[~finite].double(), equal_nan=True)
            one, other, truth = (x.where(finite, 0.0) for x in (one, other, truth))
            rounding = 4 * torch.finfo(torch.float32).eps * float(truth.abs().max() + 1)
            assert (one - truth).abs().max() <= 1.5 * (other - truth).abs().max() + rounding


@pytest.fixture(autouse=True)
def _small_inputs_too(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "light" not in request.node.name:
        monkeypatch.setattr(twin, "SMALL", 0)
        monkeypatch.setattr(twin, "BY_EPISODES", {})


def with_gradients(function: Callable[..., Any], case: Case, inputs: dict[str, Any]) -> list[Tensor | None]:
    """The results, and the gradient of every floating-point argument, None where nothing flows."""
    inner = {name: inputs[name].detach().clone().requires_grad_() for name in case.of(Values)}
    results = leaves(function(**{**inputs, **inner}))
    flowing = [result for result in results if result.requires_grad]
    if not flowing:
        return results
    gradients = torch.autograd.grad(total(flowing), list(inner.values()), allow_unused=True)
    return [*(result.detach() for result in results), *gradients]


@pytest.fixture
def _compiles() -> None:
    """Skip where no code can be generated."""
    if switches.switched_off():
        pytest.skip("the compiler is switched off")


@pytest.mark.parametrize("name", [*TOOLS, *UPDATES])
def test_what_looks_at_values_is_the_same_function(name: str) -> None:
    """Generated code has no graph of it."""
    assert getattr(fused, name) is getattr(offline_losses, name)


@pytest.mark.parametrize("row", LEDGER, ids=lambda row: row.name)
def test_every_function_has_a_twin(row: Row) -> None:
    """Another object with the same name, signature and documentation, unless the function is as fast as it gets."""
    one, other = row.function, getattr(fused, row.name)
    assert (one is other) == row.as_it_is
    assert inspect.signature(one) == inspect.signature(other)
    assert (one.__name__, one.__doc__) == (other.__name__, other.__doc__)
    assert row.name in fused.__all__


@each_function
@pytest.mark.usefixtures("_compiles", "_little_code")
def test_values_and_gradients_over_a_schedule(case: Case) -> None:
    """Batch sizes and knobs change from call to call: nothing grows stale, and the gradients are the same."""
    for inputs in schedule(case):
        for twice in range(2):  # the second call takes the entry that the first one made
            actual = with_gradients(fused_twin(case), case, inputs)
            expected = with_gradients(case.row.function, case, inputs)
            for one, other in zip(actual, expected, strict=True):
                if one is None or other is None:
                    assert one is other, twice
                else:
                    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@each(MAIN | KINDS, [case for case in OF_RUNS if case.apart])
@pytest.mark.usefixtures("_compiles", "_little_code")
def test_knobs_of_runs(case: Case) -> None:
    """One number for each run `[R, 1]` of a batch `[R, B]`, and their gradients."""
    inputs, knobs = case.build((3, 4)), case.knobs_of_runs(3)
    found = []
    for function in (fused_twin(case), case.row.function):
        given = {name: x.clone().requires_grad_(case.arguments[name].gradient) for name, x in knobs.items()}
        results = leaves(function(**{**inputs, **given}))
        found.append([x.detach() for x in results])
        if any(x.requires_grad for x in results):
            wrt = [x for x in given.values() if x.requires_grad]
            flowing = [x for x in results if x.requires_grad]
            found[-1] += torch.autograd.grad(total(flowing), wrt, materialize_grads=True)
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", [case for case in CASES if case.row.name in MULTIPLIERS], ids=str)
@pytest.mark.usefixtures("_compiles", "_little_code")
def test_a_multiplier_for_each_run(case: Case) -> None:
    """And its gradient."""
    inputs, name = case.build((3, 4)), MULTIPLIERS[case.row.name]
    shape = next(iter(case.knobs_of_runs(3).values())).shape
    found = []
    for function in (fused_twin(case), case.row.function):
        multiplier = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64).view(shape).requires_grad_()
        results = leaves(function(**{**inputs, name: multiplier}))
        slope = torch.autograd.grad(total([x for x in results if x.requires_grad]), multiplier)
        found.append([*(x.detach() for x in results), *slope])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("_compiles")
def test_loops_read_flags_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops on the CPU do, forwards and backwards; the operator under the returns takes them as they are."""
    read = passes.read_as_numbers
    found: list[list[int]] = []

    def spied(nodes: Any) -> list[int]:
        found.append(read(nodes))
        return found[-1]

    monkeypatch.setattr(passes, "read_as_numbers", spied)
    reward, value = torch.randn(64, 40), torch.randn(64, 40)
    flag, last = torch.rand(64, 40) < 0.5, torch.rand(64, 40) < 0.5
    for name, arguments, numbers in (
        ("bellman_target", (reward, value, flag), [2]),
        ("lambda_return", (reward, value, flag, last), [2, 3]),
        ("discounted_return", (reward, last), []),
    ):
        found.clear()
        function, eager = twin.fuse(getattr(offline_losses, name)), getattr(offline_losses, name)
        inputs = [x.clone().requires_grad_() if x.is_floating_point() else x for x in arguments]
        wanted = [x for x in inputs if x.requires_grad]
        actual, expected = (torch.autograd.grad(f(*inputs).square().sum(), wanted) for f in (function, eager))
        for one, other in zip(actual, expected, strict=True):
            assert one.allclose(other, atol=1e-5)
        assert found == [numbers, numbers]


@pytest.mark.usefixtures("_compiles")
def test_loops_write_flags_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes back is flags nevertheless, beside numbers and alone."""
    write = passes.write_as_numbers
    found: list[list[int]] = []

    def spied(nodes: Any) -> list[int]:
        found.append(write(nodes))
        return found[-1]

    monkeypatch.setattr(passes, "write_as_numbers", spied)
    x = torch.tensor([0.0, 2.0, math.inf, NAN, 0.5])
    for name, argument, numbers in (("goal_reward", x, [1]), ("support_mask", x.repeat(2, 1), [0])):
        found.clear()
        function, eager = twin.fuse(getattr(offline_losses, name)), getattr(offline_losses, name)
        for one, other in zip(*(leaves(f(argument, threshold=0.5)) for f in (function, eager)), strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
        assert found == [numbers]


@pytest.mark.usefixtures("_compiles")
@pytest.mark.parametrize(("name", "left"), [("soft_value", 0), ("softmax_entropy", 0), ("observation_statistics", 1)])
def test_gradients_read_what_was_kept(name: str, left: int) -> None:
    """Sums and maxima over a row are not computed again; the derivative by the mean is a sum of its own."""
    x, seen = torch.randn(64, 5, requires_grad=True), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "count_as_numbers", seen.append)
        results = leaves(twin.fuse(getattr(offline_losses, name))(x))
        torch.autograd.grad(results, x, [torch.ones_like(result) for result in results])
    forwards, backwards = (
        [str(node.target) for node in nodes.nodes if str(node.target).startswith(("aten.sum", "aten.amax"))]
        for nodes in seen
    )
    assert len(forwards) >= 2
    assert len(backwards) == left


@pytest.mark.usefixtures("_compiles")
def test_gradients_read_what_an_operator_read() -> None:
    """The cuts and factors of a recurrence are written down for it, and so are there for its gradient."""
    seen: list[Any] = []
    x, end = torch.randn(64, 40, requires_grad=True), torch.rand(64, 40) < 0.1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "count_as_numbers", seen.append)
        for _ in range(2):  # the first call also generates the code of the operator
            seen.clear()
            twin.fuse(offline_losses.retrace_return)(x, x, x, x, end, end).sum().backward()
    cuts = torch.ops.aten.bitwise_or.Tensor
    assert [len(nodes.find_nodes(op="call_function", target=cuts)) for nodes in seen] == [1, 0]


@pytest.mark.usefixtures("_compiles")
def test_ties_are_counted_as_numbers() -> None:
    """The gradient of a minimum is divided among its ties by a count that is added in double precision."""
    q = torch.tensor([[1.0, 2.0, 3.0, 5.0], [1.0, 4.0, 2.0, 5.0]] * 64)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        count = passes.count_as_numbers
        patch.setattr(passes, "count_as_numbers", lambda nodes: seen.append((count(nodes), nodes)))
        slopes = [
            torch.autograd.grad(f(x).sum(), x)[0]
            for f in (offline_losses.ensemble_min, twin.fuse(offline_losses.ensemble_min))
            for x in [q.clone().requires_grad_()]
        ]
    assert slopes[0].equal(slopes[1])
    sums = [node for _, nodes in seen for node in nodes.nodes if node.target is torch.ops.aten.sum.dim_IntList]
    assert [node.kwargs for node in sums] == [{"dtype": torch.float64}]


@pytest.mark.usefixtures("_compiles")
@pytest.mark.parametrize(
    ("name", "knobs", "numbers"),
    [
        ("nll_loss", {}, [True]),
        ("sac_policy_loss", {"temperature": 0.3}, [True, True]),
        ("td3_bc_loss", {}, [True, False]),
        ("cql_lagrange_losses", {"threshold_on": "gap"}, [True]),
        ("sac_policy_loss", {"mask": torch.arange(2**15) % 3 > 0}, [False, False]),
        ("sac_policy_loss", {"weight": torch.rand(2**15)}, [False, False]),
        ("sac_policy_loss", {"reduction": "none"}, [False, False]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, *(pytest.param(x, marks=thorough) for x in HALF_AND_DOUBLE)])
def test_a_gradient_that_is_one_number_is_written_beside_the_sum(
    name: str, knobs: dict[str, Any], numbers: list[bool], dtype: torch.dtype
) -> None:
    """The loop that reads the sample writes it, and whoever gets it may write into it."""
    torch.manual_seed(0)
    eager = getattr(offline_losses, name)
    sample = [torch.randn(2**15, dtype=dtype, requires_grad=True) for _ in numbers]
    if name == "td3_bc_loss":
        sample[1] = torch.randn(2**15, 2, dtype=dtype, requires_grad=True)
    other = {"td3_bc_loss": [torch.zeros(2**15, 2, dtype=dtype)], "cql_lagrange_losses": [torch.tensor(0.5)]}
    fixed, slopes, seen = other.get(name, []), [], []
    with pytest.MonkeyPatch.context() as patch:
        write = passes.write_beside
        patch.setattr(passes, "write_beside", lambda nodes: seen.append((write(nodes), nodes)))
        for function in (eager, twin.fuse(eager)):
            scaled, plain = (leaves(function(*sample, *fixed, **knobs))[0] for _ in range(2))
            slopes.append(torch.autograd.grad(2 * scaled.sum(), sample))
            slopes.append(torch.autograd.grad(plain, sample, torch.ones_like(plain)))
    assert all(map(len, function.graphs.values()))  # the compiler has taken what was written
    if seen:  # not in half precision, where a gradient is scaled before it is rounded
        found = seen[0][1].output_node().args[0][: len(numbers)]
        assert [x.target is torch.ops.aten.where.self and x.args[1] is x.args[2] for x in found] == numbers
    for actual, expected in zip((*slopes[2], *slopes[3]), (*slopes[0], *slopes[1]), strict=True):
        torch.testing.assert_close(actual.mul_(2), 2 * expected)


@pytest.mark.usefixtures("_compiles")
def test_the_gradient_of_a_mean_does_not_look_at_the_sample() -> None:
    """What is not a number has the same slope, and a hook may write into it before it becomes a leaf's gradient."""
    log_prob = torch.randn(100)
    log_prob[3:5] = torch.tensor([math.nan, -math.inf])
    log_prob.requires_grad_().register_hook(lambda slope: slope.clamp_(max=-0.02).mul_(2))
    twin.fuse(offline_losses.nll_loss)(log_prob).backward()
    torch.testing.assert_close(log_prob.grad, torch.full((100,), -0.04))


@pytest.mark.usefixtures("_compiles")
def test_a_number_that_is_zero_has_code_of_its_own() -> None:
    """The code for other numbers need not ask whether they are zero, which infinity times zero would have to know."""
    reward, log_prob, end = torch.ones(50), torch.full((50,), -math.inf), torch.zeros(50, dtype=torch.bool)
    function = twin.fuse(offline_losses.soft_bellman_target)
    for temperature, discount in ((0.5, 0.9), (0.0, 0.9), (0.7, 0.8), (0.5, 0.0)):
        knobs = {"temperature": temperature, "discount": discount}
        found = function(reward, reward, log_prob, end, **knobs)
        torch.testing.assert_close(found, offline_losses.soft_bellman_target(reward, reward, log_prob, end, **knobs))
        assert bool((found == 1 if discount == 0 else found == math.inf if temperature else found == 1.9).all())
    assert sum(map(len, function.graphs.values())) == 3


@pytest.mark.usefixtures("_compiles")
@pytest.mark.parametrize("name", ["squared_loss", "nll_loss", "td3_bc_loss", "cql_lagrange_losses"])
def test_a_denominator_is_an_argument_of_the_code(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph for all numbers but zero, and one for each dtype of a tensor; and none of them has a gradient."""
    monkeypatch.setattr(private.COMPILER, "compile_fx_inner", operator_by_operator)
    case = next(case for case in CASES if case.row.name == name)
    function, inputs, mask = twin.fuse(case.row.function), case.build((6,)), torch.arange(6) % 3 > 0
    slope = torch.tensor(0.3, requires_grad=True)
    kinds: list[tuple[Any, ...]] = [(4, 7.5, 0.3), (0,), (torch.tensor(4), torch.tensor(9)), (slope, slope.detach())]
    for kind in kinds:
        graphs = set(function.graphs)
        for denominator in kind:
            given = {**inputs, "mask": mask, "denominator": denominator}
            actual, expected = (with_gradients(f, case, given) for f in (function, case.row.function))
            for one, other in zip(actual, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        plans = {key[:-2] for key in set(function.graphs) - graphs}
        assert len(plans) == 1, kind


@pytest.mark.usefixtures("_compiles")
@pytest.mark.parametrize("scale", [1e38, 1.0, 1e-30, 1e-38, 1e-44, 0.0])
@pytest.mark.parametrize("masked", [False, True])
def test_generated_weights_do_not_depend_on_the_scale(scale: float, masked: bool) -> None:
    """Also where their sum is no float, or they are too small to have all of its digits."""
    weight = torch.arange(50.0).fmod(3) * torch.tensor(scale)
    mask = torch.arange(50) % 5 > 0 if masked else None
    found = twin.fuse(offline_losses.normalize_weights)(weight, mask=mask)
    torch.testing.assert_close(found, offline_losses.normalize_weights(weight, mask=mask))


@pytest.mark.usefixtures("_compiles")
def test_one_graph_for_statistics_without_a_mask() -> None:
    """The number of samples stays open where nothing but the shape tells it."""
    function = twin.fuse(offline_losses.observation_statistics)
    for batch in BATCHES[1:]:
        observation = torch.randn(batch, 3)
        for one, other in zip(function(observation), offline_losses.observation_statistics(observation), strict=True):
            assert one.allclose(other, atol=1e-5)
    assert [len(graphs) for key, graphs in function.graphs.items() if key[0] == "value"] == [1]


@each(MAIN | KINDS)
@pytest.mark.usefixtures("_compiles")
def test_generated_code_is_no_less_exact_than_eager(case: Case) -> None:
    """At a size that fills the vectors of a processor and leaves a rest."""
    no_less_exact(case, 4099)


@each(FIRST | MAIN | KINDS)
@pytest.mark.usefixtures("_compiles", "_little_code")
def test_no_less_exact_than_eager_and_few_graphs(case: Case) -> None:
    """Seven batch sizes need at most two graphs.

    With critics before the batch the first graph takes the batch for a fixed last axis, and there may be a third.
    """
    function = fused_twin(case)
    before = set(function.graphs)
    for batch in BATCHES:
        no_less_exact(case, batch)
    used = Counter(key[:-1] for key in set(function.graphs) - before for _ in range(len(function.graphs[key])))
    assert function.graphs or case.row.name in LEFT_TO_EAGER
    assert max(used.values(), default=0) <= 2 + case.critics, used


@each(MAIN | KINDS)
@pytest.mark.usefixtures("_compiles", "_little_code")
def test_large_inputs(case: Case) -> None:
    """From 32 768 elements on there are graphs of their own, laid out for much work: as few, with eager's values.

    Those that stand for their kind meet several sizes; --compile-all shows one to all others.
    """
    function = fused_twin(case)
    for batch in (2**15, 50_001, 70_000) if case.row.name in MAIN | KINDS else (2**15 + 1,):
        inputs = case.build((batch,), dtype=torch.float32, seed=batch)
        eager, actual = (with_gradients(f, case, inputs) for f in (case.row.function, function))
        for one, other in zip(actual, eager, strict=True):
            if one is None or other is None:
                assert one is other
            else:
                largest = float(other.double().abs().max())
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6 * largest)
    sizes = graph.size_class([torch.empty(2**15)])
    used = Counter(key[:-1] for key, made in function.graphs.items() if key[-1] == sizes for _ in range(len(made)))
    assert bool(+used) or case.row.name in LEFT_TO_EAGER
    assert max(used.values(), default=0) <= 2, used


@each_function
@pytest.mark.usefixtures("_compiles", "_little_code")
def test_wrong_input_meets_the_same_error(case: Case) -> None:
    """Once there is code, a bad argument is still refused, in the words of the eager function."""
    fused_twin(case)(**case.build())
    for name, value, error in wrong_inputs(case):
        inputs = {**case.build(), name: value}
        with pytest.raises(error) as eager:
            case.row.function(**inputs)
        with pytest.raises(error) as actual:
            fused_twin(case)(**inputs)
        assert str(actual.value) == str(eager.value)


@pytest.mark.usefixtures("_compiles", "_little_code")
@pytest.mark.parametrize("name", ["expectile_loss", "soft_value", "bellman_target", "lambda_return"])
class TestOneFunction:
    """What surrounds a call: autograd modes, transforms, memory, precision."""

    @pytest.fixture
    def case(self, name: str) -> Case:
        """The function's first case."""
        return next(case for case in CASES if case.row.name == name)

    def test_double_backward(self, case: Case) -> None:
        """The gradient of a gradient is eager's: it is computed by autograd."""

        def second(function: Callable[..., Any]) -> list[Tensor]:
            inputs = case.build()
            inner = {name: inputs[name].clone().requires_grad_() for name in case.of(Values)}
            result = leaves(function(**{**inputs, **inner}))[0].square().sum()
            first = torch.autograd.grad(result, list(inner.values()), create_graph=True, allow_unused=True)
            ends = [gradient.square().sum() for gradient in first if gradient is not None]
            found = torch.autograd.grad(sum(ends, torch.zeros(())), list(inner.values()), allow_unused=True)
            return [gradient for gradient in found if gradient is not None]

        for one, other in zip(second(fused_twin(case)), second(case.row.function), strict=True):
            torch.testing.assert_close(one, other)

    def test_backward_twice(self, case: Case) -> None:
        """With `retain_graph` the second pass gives the gradient of the first."""
        inputs = case.build()
        first = next(iter(case.of(Values)))
        x = inputs[first].clone().requires_grad_()
        result = total(fused_twin(case)(**{**inputs, first: x}))
        one, two = (torch.autograd.grad(result, x, retain_graph=True)[0] for _ in range(2))
        torch.testing.assert_close(one, two)

    def test_transforms(self, case: Case) -> None:
        """Under vmap, grad and jvp it is the eager function."""
        inputs = case.build((3, 4))
        first = next(iter(case.of(Values)))

        def one(function: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
            return lambda x: total(function(**{**inputs, first: x}))

        x = inputs[first]
        for transform in (torch.func.grad, torch.func.jacrev, lambda f: lambda x: torch.func.jvp(f, (x,), (x,))[1]):
            torch.testing.assert_close(
                transform(one(fused_twin(case)))(x), transform(one(case.row.function))(x), rtol=1e-9, atol=1e-9
            )
        rows = torch.stack([x, x + 1])
        torch.testing.assert_close(
            torch.func.vmap(one(fused_twin(case)))(rows), torch.func.vmap(one(case.row.function))(rows)
        )

    def test_inside_the_users_compiled_region(self, case: Case) -> None:
        """It is inlined, without a break in the graph."""
        torch._dynamo.reset()
        compiled = torch.compile(fused_twin(case), fullgraph=True, backend="aot_eager")
        inputs = case.build()
        torch.testing.assert_close(compiled(**inputs), case.row.function(**inputs), rtol=1e-9, atol=1e-9)

    def test_layouts(self, case: Case) -> None:
        """Strided, transposed and expanded inputs, and their gradients."""
        inputs = case.build((6, 6))
        for change in (
            lambda x: torch.stack([x, x], -1)[..., 0],
            lambda x: x.transpose(0, 1),
            lambda x: x[:1].expand_as(x),
        ):
            moved = {name: change(x) if isinstance(x, Tensor) else x for name, x in inputs.items()}

            def run(function: Callable[..., Any], moved: dict[str, Any] = moved) -> list[Any]:
                inner = {name: moved[name].detach().requires_grad_() for name in case.of(Values)}
                result = total(function(**{**moved, **inner}))
                return [result, *torch.autograd.grad(result, list(inner.values()), allow_unused=True)]

            for one, other in zip(run(fused_twin(case)), run(case.row.function), strict=True):
                assert (one is None) == (other is None)
                if one is not None:
                    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize(
        "dtype", [torch.float32, torch.bfloat16, pytest.param(torch.float16, marks=thorough)], ids=str
    )
    def test_lower_precision_and_autocast(self, case: Case, dtype: torch.dtype) -> None:
        """Half precision is computed in float32, with or without autocast."""
        inputs = case.build((64,), dtype=dtype)
        expected = with_gradients(case.row.function, case, inputs)
        with torch.autocast("cpu", torch.bfloat16):
            actual = with_gradients(fused_twin(case), case, inputs)
        for one, other in zip(actual, expected, strict=True):
            if one is not None and other is not None:
                assert one.dtype == other.dtype
                torch.testing.assert_close(one, other, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)

    def test_nothing_and_one(self, case: Case) -> None:
        """No samples, and a batch of one, are run eagerly and right."""
        for batch in ((0,), (1,), ()):
            inputs = case.build(batch)
            torch.testing.assert_close(fused_twin(case)(**inputs), case.row.function(**inputs))

    def test_knobs_as_tensors_have_gradients(self, case: Case) -> None:
        """A 0-d tensor in place of a number is an input like any other."""
        inputs = case.build()
        knobs = {name: torch.tensor(inputs[name], dtype=torch.float64, requires_grad=True) for name in case.of(Knob)}
        for name, knob in knobs.items():
            one, other = (
                torch.autograd.grad(total(f(**{**inputs, **knobs})), knob)[0]
                for f in (fused_twin(case), case.row.function)
            )
            torch.testing.assert_close(one, other, msg=name)

    def test_inference_and_no_grad(self, case: Case) -> None:
        """Without autograd there is a value and no graph."""
        inputs = case.build()
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                result = leaves(fused_twin(case)(**inputs))[0]
            assert not result.requires_grad
            torch.testing.assert_close(result, leaves(case.row.function(**inputs))[0])

    def test_positional_and_keyword_arguments(self, case: Case) -> None:
        """They are bound as Python binds them, and refused as Python refuses them."""
        inputs = case.build()
        positional = [
            p.name for p in inspect.signature(case.row.function).parameters.values() if p.kind is not p.KEYWORD_ONLY
        ]
        rest = {name: value for name, value in inputs.items() if name not in positional}
        torch.testing.assert_close(
            fused_twin(case)(*(inputs[name] for name in positional), **rest), fused_twin(case)(**inputs)
        )
        with pytest.raises(TypeError, match=r"expected one of the arguments .*, got tau"):
            fused_twin(case)(**inputs, tau=0.5)
        with pytest.raises(TypeError, match="missing"):
            fused_twin(case)()


@pytest.mark.usefixtures("_compiles")
def test_light_calls_are_left_to_eager() -> None:
    """A few operators with a gradient cost less than finding their code, on a small batch and only there."""
    function, flags = twin.fuse(offline_losses.bellman_target), torch.zeros(50_000, dtype=torch.bool)
    x, y = torch.randn(50_000, requires_grad=True), torch.randn(50_000)
    for size, recorded, count in [(300, True, 0), (300, False, 1), (50_000, True, 2)]:
        reward = x[:size] if recorded else x[:size].detach()
        for _ in range(2):
            target = function(reward, y[:size], flags[:size])
        assert target.equal(offline_losses.bellman_target(reward, y[:size], flags[:size]))
        assert sum(len(graphs) for graphs in function.graphs.values()) == count
        assert target.requires_grad == recorded


class Watched(torch.autograd.Function):
    """A copy whose backward pass is noticed, and spoils whatever it is given."""

    seen: ClassVar[set[str]] = set()

    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str) -> Tensor:
        ctx.name = name
        return x.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        Watched.seen.add(ctx.name)
        return upstream * NAN, None


def ways_back(function: Callable[..., Any], case: Case, inputs: dict[str, Any]) -> list[tuple[set[str], set[str]]]:
    """For each result: through which arguments its backward pass goes, and which of them have a gradient afterwards."""
    found = []
    count = len(leaves(case.row.function(**inputs)))
    for i in range(count):
        inner = {name: inputs[name].clone().requires_grad_() for name in case.of(Values)}
        result = leaves(function(**{**inputs, **{name: Watched.apply(x, name) for name, x in inner.items()}}))[i]
        Watched.seen = set()
        if result.requires_grad:
            result.sum().backward()
        found.append((Watched.seen, {name for name, x in inner.items() if x.grad is not None}))
    return found


@each_function
@pytest.mark.usefixtures("_compiles", "_little_code")
def test_a_backward_pass_goes_where_that_of_eager_goes(case: Case) -> None:
    """What comes out detached has no edge: no zeros reach what made it, and its gradient stays None."""
    inputs = case.build((300,), dtype=torch.float32)
    assert ways_back(fused_twin(case), case, inputs) == ways_back(case.row.function, case, inputs)


@each(MAIN | KINDS)
@pytest.mark.usefixtures("_compiles", "_little_code")
def test_a_light_backward_pass_goes_there_too(case: Case) -> None:
    """So it is on a small batch, of which eager records the operators."""
    inputs = case.build((300,), dtype=torch.float32)
    assert ways_back(twin.fuse(case.row.function), case, inputs) == ways_back(case.row.function, case, inputs)


@pytest.mark.usefixtures("_compiles")
@pytest.mark.parametrize("records", [False, True])
def test_one_node_serves_results_of_differing_arguments(records: bool) -> None:
    """The effective sample size has no gradient for the rewards, and from it they get none, as parameters do not."""
    nodes, found, generator = [], [], torch.Generator()
    for function in (fused.ips_value, offline_losses.ips_value):
        inputs = [torch.rand(20_000, generator=generator.manual_seed(i)).requires_grad_() for i in (0, 1)]
        value, error, size = function(*inputs, torch.full((20_000,), 0.5))
        nodes += [value.grad_fn, size.grad_fn]
        kept = {"retain_graph": True, "create_graph": records}
        nothing, slope = torch.autograd.grad(size, inputs, allow_unused=True, **kept)
        found.append([slope, *torch.autograd.grad(value + error, inputs, **kept)])
        size.backward(retain_graph=True)
        assert nothing is None
        assert inputs[0].grad is None
    assert nodes[0] is nodes[1]
    torch.testing.assert_close(*found)


@pytest.mark.usefixtures("_compiles")
@pytest.mark.parametrize("size", [300, 40_000])
@pytest.mark.parametrize("argument", ["target", "weight", "log_prob"])
def test_a_detached_argument_that_a_fused_function_made(argument: str, size: int) -> None:
    """The root of zero has no derivative, and the network behind a target no gradient."""
    x, q = torch.zeros(size, requires_grad=True), torch.ones(size, requires_grad=True)
    made = fused.bellman_target(torch.ones(size), x.sqrt(), torch.zeros(size, dtype=torch.bool))
    if argument == "log_prob":
        loss = fused.temperature_loss(torch.tensor(0.0, requires_grad=True), made, target_entropy=-1.0)
    else:
        loss = fused.squared_loss(q, made if argument == "target" else torch.ones(size), weight=made)
    loss.backward()
    assert x.grad is None


@pytest.mark.usefixtures("_compiles")
def test_a_gradient_given_away_may_be_overwritten() -> None:
    """And the next backward pass through the same graph is right all the same."""
    x, y = torch.randn(50, requires_grad=True), torch.randn(50)
    loss = twin.fuse(offline_losses.squared_loss)(x, y)
    first = torch.autograd.grad(loss, x, retain_graph=True)[0]
    expected = first.clone()
    first.zero_()
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], expected)


@pytest.mark.parametrize("row", LEDGER, ids=lambda row: row.name)
def test_a_fused_function_is_pickled_by_its_name(row: Row) -> None:
    """As spawned workers get their functions."""
    function = getattr(fused, row.name)
    assert pickle.loads(pickle.dumps(function)) is function


def test_tracing_is_a_matter_of_one_thread() -> None:
    """While one thread traces, another one's calls run as they are."""
    with tracing.tracing(), ThreadPoolExecutor(1) as other:
        assert tracing.is_tracing()
        assert not other.submit(tracing.is_tracing).result()
    assert not tracing.is_tracing()


@pytest.mark.usefixtures("_compiles")
def test_a_forked_process_runs_eagerly() -> None:
    """It lacks the threads of the compiled code: it says so once and gives the same numbers."""
    script = """
import os, sys, warnings, torch
from offline_losses import discounted_return, fused
torch.set_num_threads(2)
x, y, end = torch.randn(2**18), torch.zeros(2**18), torch.zeros(2**18, dtype=torch.bool)
expected = fused.expectile_loss(x, y), fused.discounted_return(x, end)
child = os.fork()
if child == 0:
    with warnings.catch_warnings(record=True) as caught:
        torch.set_num_threads(1)
        found = fused.expectile_loss(x, y), fused.discounted_return(x, end)
        again = fused.expectile_loss(x, y)
    same = all(a.allclose(b, rtol=1e-4, atol=1e-4) for a, b in zip(found, expected))
    os._exit(0 if same and len(caught) == 1 and "forked" in str(caught[0].message) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=300).returncode == 0


@pytest.mark.usefixtures("_compiles")
def test_an_upstream_gradient_scales() -> None:
    """A loss with a factor, and the same one without, in one backward pass."""
    x, y = torch.randn(50, requires_grad=True), torch.randn(50)
    one = torch.autograd.grad(3 * fused.squared_loss(x, y) + fused.squared_loss(x, y), x)[0]
    torch.testing.assert_close(one, torch.autograd.grad(4 * offline_losses.squared_loss(x, y), x)[0])


@pytest.mark.usefixtures("_compiles")
def test_an_input_changed_in_between_is_noticed() -> None:
    """What the gradient was computed from may not be overwritten before it is used."""
    x, y = torch.randn(50, requires_grad=True), torch.randn(50)
    target = twin.fuse(offline_losses.soft_bellman_target)(x, y, y, torch.zeros(50).bool())
    y.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        target.sum().backward()


@pytest.mark.usefixtures("_compiles")
def test_each_number_of_threads_has_its_graph() -> None:
    """Loops are divided when they are generated."""
    function, x, y = twin.fuse(offline_losses.huber_loss), torch.randn(100_000), torch.randn(100_000)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.testing.assert_close(function(x, y), offline_losses.huber_loss(x, y))
            assert sum(len(graphs) for graphs in function.graphs.values()) == count
    finally:
        torch.set_num_threads(threads)


@pytest.mark.usefixtures("_compiles")
def test_under_a_checkpoint() -> None:
    """Saved tensors are unpacked once, as activation checkpoints require."""
    x, y = torch.randn(50, requires_grad=True), torch.randn(50)
    loss = torch.utils.checkpoint.checkpoint(fused.huber_loss, x, y, use_reentrant=False)
    expected = torch.autograd.grad(offline_losses.huber_loss(x, y), x)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], expected)


@pytest.mark.usefixtures("_compiles")
def test_a_target_made_in_inference_mode() -> None:
    """Autograd cannot save it: the function itself runs."""
    with torch.inference_mode():
        y = torch.randn(50)
    x = torch.randn(50, requires_grad=True)
    torch.testing.assert_close(fused.huber_loss(x, y), offline_losses.huber_loss(x, y))


@pytest.mark.usefixtures("_compiles")
@pytest.mark.parametrize("name", ["huber_loss", "soft_value"])
@pytest.mark.parametrize("first", ["single", "batch"])
def test_gradients_in_a_batch(name: str, first: str, recwarn: pytest.WarningsRecorder) -> None:
    """`is_grads_batched` maps the backward pass, before and after a single one, and neither spoils the other."""
    x, y = torch.randn(6, 50, requires_grad=True), torch.randn(6, 50)
    rest, options = ((y,), {"reduction": "none"}) if name == "huber_loss" else ((), {})
    one, other = (getattr(module, name)(x, *rest, **options) for module in (fused, offline_losses))
    upstream = torch.randn(3, *one.shape)
    for batched in (first == "batch", first != "batch"):
        given = upstream if batched else upstream[0]
        a, b = (torch.autograd.grad(f, x, given, is_grads_batched=batched, retain_graph=True)[0] for f in (one, other))
        torch.testing.assert_close(a, b)
    assert not [warning for warning in recwarn if "runs eagerly" in str(warning.message)]


@pytest.mark.usefixtures("_compiles")
@pytest.mark.parametrize("name", ["huber_loss", "soft_value", "generalized_advantage", "linear_recurrence"])
def test_a_result_may_be_overwritten(name: str) -> None:
    """As that of the function itself: an advantage is often normalized in place. A recurrence needs its own result."""
    gradients = []
    for module in (offline_losses, fused):
        generator = torch.Generator().manual_seed(0)
        x, y = (torch.randn(64, 64, generator=generator) for _ in range(2))
        end = torch.rand(64, 64, generator=generator) < 0.1
        x.requires_grad_()
        arguments = {
            "soft_value": (x,),
            "huber_loss": (x, y),
            "generalized_advantage": (x, y, y, end, end),
            "linear_recurrence": (y, x / 4),
        }[name]
        options = {"reduction": "none"} if name == "huber_loss" else {}
        result = getattr(module, name)(*arguments, **options)
        result -= result.mean()
        result *= 2.0
        gradients += torch.autograd.grad(result.square().sum(), x)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("_compiles")
@pytest.mark.parametrize("gradient", [False, True], ids=["value", "value and gradient"])
def test_the_mean_of_millions_is_as_exact_as_that_of_few(gradient: bool) -> None:
    """Code that was generated for few may add one float32 after the other, which errs in the fourth digit of many."""
    generator = torch.Generator().manual_seed(0)
    for size in (300, 2**22):
        prediction, target = (torch.rand(size, generator=generator) for _ in range(2))
        exact = offline_losses.expectile_loss(prediction.double(), target.double()).item()
        loss = fused.expectile_loss(prediction.requires_grad_(gradient), target)
        assert loss.item() == pytest.approx(exact, rel=1e-6)


@pytest.mark.usefixtures("_compiles")
@pytest.mark.parametrize(
    ("name", "shapes", "shared"),
    [
        ("normalize_observation", {"observation": (2**19, 4), "mean": (4,), "std": (4,)}, "mean"),
        ("temperature_loss", {"log_temperature": (), "log_prob": (2**21,), "target_entropy": ()}, "target_entropy"),
        ("cql_lagrange_losses", {"gap": (2**21,), "log_multiplier": (), "threshold": ()}, "threshold"),
        ("expectile_loss", {"prediction": (2**21,), "target": (2**21,), "expectile": ()}, "expectile"),
        ("soft_value", {"q": (2**18, 8), "temperature": ()}, "temperature"),
    ],
)
def test_what_millions_share_has_an_exact_gradient(name: str, shapes: dict[str, tuple[int, ...]], shared: str) -> None:
    """A hyper-parameter, or the mean observation: its gradient is a sum that autograd wrote."""
    generator = torch.Generator().manual_seed(0)
    drawn = {argument: 0.2 + 0.6 * torch.rand(shape, generator=generator) for argument, shape in shapes.items()}
    slopes = []
    for module, dtype in ((fused, torch.float32), (offline_losses, torch.float64)):
        inner = {key: x.to(dtype) for key, x in drawn.items()}
        result = getattr(module, name)(**(inner | {shared: inner[shared].requires_grad_()}))
        slopes.append(torch.autograd.grad(sum(leaf.sum() for leaf in leaves(result)), inner[shared])[0])
    torch.testing.assert_close(slopes[0].double(), slopes[1], rtol=2.5e-7, atol=0.0)


@pytest.mark.usefixtures("_compiles")
def test_the_first_candidate_count_is_fixed_the_second_is_open() -> None:
    """Two graphs serve every number of candidates."""
    q = twin.fuse(offline_losses.soft_value)
    before = {key: len(value) for key, value in q.graphs.items()}
    for count in (5, 9, 30, 7, 5):
        candidates = torch.randn(11, count)
        torch.testing.assert_close(q(candidates), candidates.logsumexp(-1))
    assert max(len(value) - before.get(key, 0) for key, value in q.graphs.items()) == 2


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tensor]:
    """A twin that has compiled nothing yet, and will say why it does not."""
    monkeypatch.setattr(switches, "warned", set())
    return twin.fuse(offline_losses.expectile_loss)


def assert_eager_and_said(function: Callable[..., Tensor], reason: str) -> None:
    """Right without generated code, and the reason is given once."""
    x, y = torch.randn(20, requires_grad=True), torch.randn(20)
    expected = offline_losses.expectile_loss(x, y)
    with pytest.warns(UserWarning, match=reason):
        assert function(x, y).equal(expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert function(x, y).equal(expected)


def test_without_a_compiler(fresh: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that cannot compile runs eagerly and says so."""

    def missing(*_: Any, **__: Any) -> None:
        raise RuntimeError("no working C++ compiler")

    monkeypatch.setattr(graph, "Graph", missing)
    assert_eager_and_said(fresh, "runs eagerly: the compiler fails with RuntimeError: no working C")


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in ("CALL", "COMPILER") for name in getattr(private, group).paths]
)
def test_without_a_private_name(
    fresh: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch, group: str, name: str
) -> None:
    """A version of PyTorch that lacks any of the names that it does not document runs eagerly and says which."""
    paths = {**getattr(private, group).paths, name: "torch:no_such_thing"}
    monkeypatch.setattr(private, group, private.Names(**paths))
    private.missing_for_calls.cache_clear()
    try:
        assert_eager_and_said(fresh, "runs eagerly: PyTorch .* has no torch.no_such_thing")
    finally:
        private.missing_for_calls.cache_clear()


@pytest.mark.parametrize("switch", ["TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE"])
def test_switched_off(fresh: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    """The environment's switches of torch.compile are obeyed."""
    monkeypatch.setenv(switch, "1")
    assert_eager_and_said(fresh, f"{switch}=1 switches the compiler off")


def test_stances(fresh: Callable[..., Tensor]) -> None:
    """`torch.compiler.set_stance` is obeyed."""
    with torch.compiler.set_stance("force_eager"):
        assert_eager_and_said(fresh, "force_eager")
    x = torch.randn(20)
    fresh(x, x)
    with torch.compiler.set_stance("fail_on_recompile"):
        fresh(x, x)
        with pytest.raises(RuntimeError, match="expectile_loss: fail_on_recompile: expected a call that is compiled"):
            fresh(x.double(), x.double())
    with torch.compiler.set_stance("eager_on_recompile"):
        before = len(fresh.graphs)
        fresh(x.double(), x.double())
        assert len(fresh.graphs) == before


@pytest.mark.usefixtures("_compiles")
@pytest.mark.parametrize("case", [case for case in FULLEST if case.row.name == "discounted_return"], ids=str)
def test_code_is_kept_for_the_next_process(case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A graph that is traced anew finds its code on disk: nothing in that of a return keeps it out of the cache."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    inputs = case.build((300,), dtype=torch.float32)
    for expected in ("fxgraph_cache_miss", "fxgraph_cache_hit"):
        counters.clear()
        twin.fuse(case.row.function)(**inputs)
        seen = {name: count for name, count in counters["inductor"].items() if name.startswith("fxgraph_cache")}
        assert set(seen) == {expected}, seen


@pytest.mark.usefixtures("_compiles")
def test_warmup_compiles_value_and_gradient(fresh: Callable[..., Tensor]) -> None:
    """Afterwards no other batch size compiles anything."""
    assert fused.warmup(fresh, torch.randn(64, requires_grad=True), torch.randn(64), expectile=0.9) > 0
    graphs = {key: len(value) for key, value in fresh.graphs.items()}
    assert sum(graphs.values()) == 1
    x = torch.randn(99, requires_grad=True)
    fresh(x, torch.randn(99), expectile=0.6).backward()
    assert {key: len(value) for key, value in fresh.graphs.items()} == graphs
