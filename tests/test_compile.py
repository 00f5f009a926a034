"""What generated code is made of, piece by piece, without generating any."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from traceback import FrameSummary
from typing import Any

import pytest
import torch
from comparison import close
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import SGD, Adam, AdamW

import offline_losses
from offline_losses._compile import descent, passes, private, projection, reason, scan, stops, switches
from offline_losses._compile.recorder import recording
from offline_losses._compile.switches import Process, switched_off, warn_once

aten = torch.ops.aten

# --- why an update is not one graph ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("call to GradScaler.scale", "GradScaler looks at the gradients. Train in bfloat16, which needs no scaler"),
        ("set an attribute of an optimizer", "an attribute of an optimizer is set. Keep it elsewhere"),
        ("LRScheduler", "a scheduler is stepped inside. Step it after the update"),
        ("Scheduler.step", "a scheduler is stepped inside. Step it after the update"),
        ("ReduceLROnPlateau", "a scheduler is stepped inside. Step it after the update"),
        ("Module.load_state_dict", "a network is loaded inside. Copy it with polyak_update_(slow, fast, polyak=1.0)"),
        ("numpy/random/mtrand", "NumPy draws random numbers. Draw them with torch, or outside the update"),
        ("torch._numpy.random", "NumPy draws random numbers. Draw them with torch, or outside the update"),
        ("Random.gauss", "Python draws random numbers. Draw them with torch, or outside the update"),
        ("lib/random.py", "Python draws random numbers. Draw them with torch, or outside the update"),
        ("UserDefined(Generator)", "it draws from a generator of its own. Draw from torch's default generator"),
        ("Data-dependent branching", "a value decides what is done. Use torch.where, or decide outside the update"),
        ("data dependent", "a value decides what is done. Use torch.where, or decide outside the update"),
        ("Tensor.item()", "a value is looked at. Return the tensor and look at it outside"),
        ("Tensor.tolist", "a value is looked at. Return the tensor and look at it outside"),
        ("call numpy() of it", "a value is looked at. Return the tensor and look at it outside"),
        ("__float__", "a value is looked at. Return the tensor and look at it outside"),
        ("the builtin `print`", "something is printed. Return it and print it outside the update"),
        ("logging.info", "something is printed. Return it and print it outside the update"),
        ("a tensor was consumed", "a tensor outlives its backward pass. Detach what is returned or stored"),
        ("has a grad_fn", "the gradient flows into what was computed outside. Compute it inside, or detach it"),
        ("next() of it", "the batch is drawn inside. Draw it outside and pass it as an argument"),
        ("tp_iternext", "the batch is drawn inside. Draw it outside and pass it as an argument"),
        ("an Iterator", "the batch is drawn inside. Draw it outside and pass it as an argument"),
        ("time.time", "the clock is read. Read it outside the update"),
        ("Observed exception", "an exception is raised there. See whether it is meant to be raised"),
        ("other\n  words", "RuntimeError, other words"),
        ("words Hint: do that", "RuntimeError, words"),
        ("words Hint: do Hint: that", "RuntimeError, words"),
        ("words Developer debug context: time.time", "RuntimeError, words Developer debug context: time.time"),
        ("x" * 300, f"RuntimeError, {'x' * 200}"),
    ],
)
def test_a_failure_is_told_with_its_mend(text: str, told: str) -> None:
    """In the words of an update, whatever Dynamo's were."""
    assert reason.why(RuntimeError(text)) == told


def test_the_line_that_is_told_is_the_users() -> None:
    """The innermost one that is neither ours nor PyTorch's, which may tell the reason too."""
    error: Any = RuntimeError("words")
    own = [f"{path[0]}/x.py" for path in (torch.__path__, offline_losses.__path__)]
    files = ["/home/outer.py", "/home/inner.py", *own]
    error.real_stack = [FrameSummary(file, 7 + i, "f", line=f"line {i}") for i, file in enumerate(files)]
    assert reason.why(error) == "RuntimeError, words in inner.py, line 8 (`line 1`)"
    error.real_stack = [FrameSummary("/home/a.py", 3, "f", line="time.sleep(1)")]
    assert reason.why(error) == "the clock is read in a.py, line 3 (`time.sleep(1)`). Read it outside the update"
    error.real_stack = [FrameSummary(own[0], 3, "f", line="x")]
    assert reason.why(error) == "RuntimeError, words"


@pytest.mark.parametrize("name", reason.CHANGING)
def test_what_changes_without_a_guard_is_told_too(name: str) -> None:
    error = type(name, (Exception,), {})("no guards")
    assert reason.changes_always(error)
    assert not reason.changes_always(RuntimeError(name))
    expected = "something that it reads changes at every call. Pass it as a float or a tensor among the arguments"
    assert reason.why(error) == expected


@pytest.mark.parametrize(
    ("guard", "told"),
    [
        ("incoming[4] == True  # g  # offline_losses/_compile/whole.py:165 in whole", "what has a gradient before the"),
        (
            "G['__import_a_b'].step == 6  # step += 1  # a/b.py:25 in g",
            "`step` changes in b.py, line 25 (`step += 1`",
        ),
        (
            "len(L['self'].log) == 3  # self.log  # a/b.py:7 in g",
            ".log) == 3` becomes untrue in b.py, line 7",
        ),
        (
            "L['x'].factor == {1.5}",
            "factor == {1.5}` becomes untrue at every call. Pass it as a float",
        ),
    ],
)
def test_what_changes_is_told_in_the_words_of_its_kind(guard: str, told: str) -> None:
    error = type(reason.CHANGING[0], (Exception,), {})
    said = reason.why(error(f"triggered by the following guard failures:\n    - 0/0: {guard}\n"))
    assert told in said
    assert "whole.py" not in said  # no line of ours


def test_the_first_guard_that_failed_is_told() -> None:
    """Of several, with its own line."""
    error = type(reason.CHANGING[0], (Exception,), {})
    guards = "- 1/2: L['a'].x == 3  # a.x  # dir/file-a.py:12 in f\n - 1/1: G['y'] == 4  # y  # dir/b.py:9 in f\n"
    found = reason.why(error(f"failures:\n    {guards}"))
    assert found == (
        "`L['a'].x == 3` becomes untrue in file-a.py, line 12 (`a.x`) at every call. "
        "Pass it as a float or a tensor among the arguments"
    )


def test_an_error_lies_behind_another() -> None:
    """As its cause, its context, or what Dynamo keeps in it."""
    inner, kept = KeyError(), RuntimeError()
    kept.inner_exception = inner  # type: ignore[attr-defined]
    caused, beside, far = RuntimeError(), RuntimeError(), RuntimeError()
    caused.__cause__, beside.__context__, far.__cause__ = inner, inner, caused
    for error in (inner, kept, caused, beside, far):
        assert reason.caused_by(error, KeyError)
        assert not reason.caused_by(error, TypeError)
    assert not reason.caused_by(None, KeyError)


# --- what switches the compiler off ------------------------------------------------------------------------------


@pytest.fixture
def _on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Process, "forked", False)
    monkeypatch.setattr(Process, "compiled", False)
    monkeypatch.setattr(private, "missing_for_calls", lambda: None)


@pytest.mark.usefixtures("_on")
def test_what_switches_the_compiler_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by its own name, and nothing else."""
    assert switched_off() is None
    for name in ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE"):
        for value, off in (("0", False), ("1", True)):
            monkeypatch.setenv(name, value)
            assert switched_off() == (f"{name}=1 switches the compiler off" if off else None)
        monkeypatch.delenv(name)
    with monkeypatch.context() as changed:
        changed.setattr(private, "stance", lambda: "force_eager")
        assert switched_off() == 'torch.compiler.set_stance("force_eager") is in force'
    with monkeypatch.context() as changed:
        changed.setattr(Process, "forked", True)
        assert (switched_off() or "").startswith("this process was forked from one with compiled functions")
    monkeypatch.setattr(private, "missing_for_calls", lambda: "PyTorch has no x")
    assert switched_off() == "PyTorch has no x"


@pytest.mark.usefixtures("_on")
def test_a_child_knows_whether_its_parents_had_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any of them."""
    for compiled, forked, told in ((False, False, False), (True, False, True), (False, True, True)):
        monkeypatch.setattr(Process, "compiled", compiled)
        monkeypatch.setattr(Process, "forked", forked)
        Process.note_fork()
        assert Process.forked == told


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="needs fork")
@pytest.mark.usefixtures("_on")
def test_a_fork_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """By Python itself, in the child alone."""
    monkeypatch.setattr(Process, "compiled", True)
    child = os.fork()
    if child == 0:
        os._exit(0 if Process.forked else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert not Process.forked


def test_a_reason_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next one too."""
    monkeypatch.setattr(switches, "warned", set())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for text in ("a", "a", "b"):
            warn_once(text)
    assert [str(each.message) for each in told] == [f"offline_losses.fused runs eagerly: {text}." for text in "ab"]


def test_a_reason_is_told_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the function that runs eagerly, two calls inside of it."""
    monkeypatch.setattr(switches, "warned", set())

    def inner() -> None:
        warn_once("c")

    def middle() -> None:
        inner()

    def function() -> None:
        middle()

    with pytest.warns(UserWarning, match="runs eagerly: c") as told:
        function()
    assert told[0].lineno == function.__code__.co_firstlineno + 1


def test_an_error_in_one_line() -> None:
    """No longer than 200 letters."""
    assert switches.first_line(RuntimeError("one\ntwo")) == "one"
    assert switches.first_line(RuntimeError("")) == ""
    assert switches.first_line(RuntimeError("x" * 300)) == "x" * 200


# --- what an update does while it is recorded --------------------------------------------------------------------


def test_a_recording_notes_optimizers_of_its_thread() -> None:
    """Those that step and those that clear gradients; afterwards all is as it was."""
    p = [torch.nn.Parameter(torch.ones(1)) for _ in range(4)]
    steps, clears, other, later = (SGD([x], 0.1) for x in p)
    before = torch.optim.Optimizer.zero_grad, torch.autograd.grad, torch.autograd.backward
    for x in p:
        x.grad = torch.ones(1)
    with recording() as recorder:
        steps.step()
        clears.zero_grad()
        thread = threading.Thread(target=lambda: (other.step(), other.zero_grad()))
        thread.start()
        thread.join()
    later.step()
    later.zero_grad(set_to_none=False)
    assert list(recorder.optimizers.values()) == [steps, clears]
    assert (torch.optim.Optimizer.zero_grad, torch.autograd.grad, torch.autograd.backward) == before
    assert [x.item() for x in p] == pytest.approx([0.9, 1.0, 0.9, 0.9])
    assert [x.grad if x.grad is None else x.grad.item() for x in p] == [1.0, None, None, 0.0]


def test_a_recording_clears_gradients_as_it_is_told() -> None:
    """To zero, where none is not wanted; and an error inside leaves nothing behind."""
    x = torch.nn.Parameter(torch.ones(1))
    x.grad, before = torch.ones(1), torch.optim.Optimizer.zero_grad
    with recording():
        SGD([x], 0.1).zero_grad(set_to_none=False)
    assert x.grad is not None
    assert x.grad.item() == 0.0
    with pytest.raises(KeyError), recording():
        raise KeyError
    assert torch.optim.Optimizer.zero_grad is before


def test_a_recording_leaves_wrong_arguments_to_the_function() -> None:
    """Its own words name it."""
    with recording(), pytest.raises(TypeError, match=r"grad\(\) missing 1 required positional argument: 'inputs'"):
        torch.autograd.grad(torch.ones(1, requires_grad=True))  # type: ignore[call-arg]


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize(
    ("differentiate", "second"),
    [
        (lambda y, x: torch.autograd.grad(y, x), False),
        (lambda y, x: torch.autograd.grad(y, x, create_graph=True), True),
        (lambda y, x: torch.autograd.grad(y, x, None, True, False), False),
        (lambda y, x: torch.autograd.grad(y, x, None, True, True), True),
        (lambda y, x: y.backward(), False),
        (lambda y, x: y.backward(retain_graph=True), False),
        (lambda y, x: y.backward(create_graph=True), True),
        (lambda y, x: torch.autograd.backward(y), False),
        (lambda y, x: torch.autograd.backward(y, None, True, True), True),
    ],
)
def test_a_recording_notes_what_is_differentiated_again(
    differentiate: Callable[[Tensor, Tensor], Any], second: bool
) -> None:
    """By whichever function, and stays so; the gradient is as it was."""
    x = torch.ones(1, requires_grad=True)
    with recording() as recorder:
        for each in (differentiate, lambda y, x: torch.autograd.grad(y, x)):
            found = each(x.square().sum(), x)
            assert (x.grad if found is None else found[0]).item() == 2.0  # type: ignore[union-attr]
    assert recorder.second_order is second


# --- steps of optimizers -----------------------------------------------------------------------------------------

ADAM = [
    {},
    {"weight_decay": 0.1},
    {"maximize": True, "amsgrad": True},
    {"amsgrad": True, "betas": (0.5, 0.6), "eps": 0.1, "weight_decay": 0.3, "maximize": True},
]


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [Adam, AdamW])
@pytest.mark.parametrize("settings", ADAM, ids=str)
def test_steps_of_adam(settings: dict[str, Any], kind: type[Adam], dtype: torch.dtype, tensors: bool) -> None:
    """PyTorch's own, over several of them, with numbers or tensors."""
    ours = [torch.randn(3, dtype=dtype), torch.randn(2, 2, dtype=dtype)]
    theirs = [torch.nn.Parameter(x.clone()) for x in ours]
    optimizer = kind(theirs, lr=0.1, **settings)
    group = optimizer.param_groups[0]
    state = [[torch.zeros_like(x) for x in ours] for _ in range(3)]
    steps = [torch.zeros(()) for _ in ours]
    numbers = {
        name: torch.tensor(beta, dtype=torch.float64) if tensors else beta
        for name, beta in zip(("beta1", "beta2"), group["betas"], strict=True)
    }
    for _ in range(4):
        grads = [torch.randn_like(x) for x in ours]
        for x, grad in zip(theirs, grads, strict=True):
            x.grad = grad.clone()
        optimizer.step()
        descent.adam(
            ours, grads, *state, steps, lr=torch.tensor(0.1).double(), **numbers,
            **{name: group[name] for name in ("eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay")},
        )  # fmt: skip
    assert steps == [4, 4]
    for mine, x in zip(ours, theirs, strict=True):
        close(mine, x.detach(), 1e-5 if dtype == torch.float32 else 1e-8)
    names = ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else []))
    for name, mine in zip(names, state, strict=False):
        for one, x in zip(mine, theirs, strict=True):
            close(one, optimizer.state[x][name], 1e-6)


SGDS = [
    {},
    {"weight_decay": 0.1, "maximize": True},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.2},
    {"momentum": 0.5, "nesterov": True, "maximize": True},
]


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize("settings", SGDS, ids=str)
def test_steps_of_gradient_descent(settings: dict[str, Any], tensors: bool) -> None:
    """PyTorch's own from the second on, when there is a momentum."""
    ours = [torch.randn(3), torch.randn(2, 2)]
    theirs = [torch.nn.Parameter(x.clone()) for x in ours]
    optimizer = SGD(theirs, lr=0.1, **settings)
    group = optimizer.param_groups[0]
    for step in range(3):
        grads = [torch.randn_like(x) for x in ours]
        for x, grad in zip(theirs, grads, strict=True):
            x.grad = grad.clone()
        buffers = [optimizer.state[x].get("momentum_buffer") for x in theirs] if step else []
        buffers = [x.clone() for x in buffers if x is not None]
        before = [x.detach().clone() for x in theirs]
        optimizer.step()
        if not step:
            continue
        momentum = torch.tensor(group["momentum"]).double() if tensors else group["momentum"]
        names = ("dampening", "weight_decay", "nesterov", "maximize")
        given = {name: group[name] for name in names}
        descent.sgd(before, grads, buffers, lr=torch.tensor(0.1).double(), momentum=momentum, **given)
        for mine, x in zip(before, theirs, strict=True):
            close(mine, x.detach(), 1e-6)
        for buffer, x in zip(buffers, theirs, strict=False):
            close(buffer, optimizer.state[x]["momentum_buffer"], 1e-6)


def test_numbers_are_as_exact_as_the_parameters() -> None:
    """Double precision, if one of them has it."""
    single, double = torch.ones(1), torch.ones(1).double()
    assert descent._precision([single, double]) == torch.float64
    assert descent._precision([single, single.half()]) == torch.float32
    assert descent._as(torch.float32, 0.5) == 0.5


# --- kernels of operators, run as they are -----------------------------------------------------------------------

LENGTHS = (1, 2, 3, 15, 16, 17, 31, 32, 33, 257)


@pytest.fixture
def _as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (scan, stops):
        monkeypatch.setattr(module, "run", lambda kernel, *tensors: kernel(*tensors))


def recurrence(b: Tensor, a: Tensor, cut: Tensor | None, forwards: bool) -> Tensor:
    x, a = list(b.unbind(-1)), a.expand_as(b)
    for t in range(1, len(x)) if forwards else range(len(x) - 2, -1, -1):
        at, before = (t - 1, t - 1) if forwards else (t, t + 1)
        added = a[..., at] * x[before]
        x[t] = x[t] + (added if cut is None else torch.where(cut[..., at], 0.0, added))
    return torch.stack(x, -1)


@pytest.mark.usefixtures("_as_they_are")
@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("forwards", [False, True])
def test_the_kernels_of_the_recurrence_are_the_loop(forwards: bool, one: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In both directions, at lengths around one and two chunks, with NaN in factors that are cut."""
    monkeypatch.setattr(scan, "solve_in_order", lambda *_: pytest.fail("no kernels"))
    kernels = scan._FORWARDS if forwards else scan._BACKWARDS
    for shape in [(steps,) for steps in LENGTHS] + [(3, steps) for steps in LENGTHS]:
        b, a = torch.randn(2, *shape, dtype=torch.float64)
        a = torch.tensor(0.9).double() if one else a.tanh()
        done, terminated = torch.rand(2, *shape) < 0.1
        for flags in ((None, None), (done, None), (done, terminated)):
            given = [x if x is None else x.clone() for x in flags]
            cut = None if flags[0] is None else done if flags[1] is None else done | terminated
            spoiled = a if one or cut is None else torch.where(cut, torch.nan, a)
            close(scan._scan(kernels, b, spoiled, *given), recurrence(b, a, cut, forwards))
            assert given[0] is None or given[0].equal(done)


@pytest.mark.usefixtures("_as_they_are")
@pytest.mark.parametrize(("b", "factor"), [([1.0] * 40, 4.0), ([1.0] * 20 + [float("inf")] * 20, 0.5)])
def test_products_that_do_not_tell_are_left_to_the_loop(b: list[float], factor: float) -> None:
    """Large factors, or infinite values; on a card nobody looks."""
    x, a = torch.tensor(b).double(), torch.full((40,), factor).double()
    if factor == 4.0:
        never = torch.zeros(40, dtype=torch.bool)
        close(scan._chunked(scan._BACKWARDS, x, a, never, False), recurrence(x, a, None, False))
    for kernels, forwards in ((scan._BACKWARDS, False), (scan._FORWARDS, True)):
        with pytest.raises(scan.Unsafe):
            scan._in_chunks(kernels, x, a, None, None)
        torch.testing.assert_close(scan._scan(kernels, x, a), recurrence(x, a, None, forwards))


@pytest.mark.usefixtures("_as_they_are")
@pytest.mark.parametrize("kernels", [scan._BACKWARDS, scan._FORWARDS])
def test_a_child_and_an_empty_tensor_need_no_kernel(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one step, which is new memory."""
    monkeypatch.setattr(Process, "forked", True)
    monkeypatch.setattr(scan, "run", lambda *_: pytest.fail("a kernel"))
    solved: list[tuple[int, ...]] = []
    solve = scan.solve_in_order
    monkeypatch.setattr(scan, "solve_in_order", lambda b, *rest: solved.append(b.shape) or solve(b, *rest))
    for shape in ((0, 4), (3, 1), (2, 40)):
        b = torch.rand(shape)
        found = scan._scan(kernels, b, torch.full(shape, 0.5))
        assert found.shape == shape
        assert not b.numel() or found.data_ptr() != b.data_ptr()
        assert shape == (2, 40) or found.equal(b)
    assert solved == [(2, 40)]


@pytest.mark.usefixtures("_as_they_are")
@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("name", ["scan", "scan_forwards"])
def test_derivatives_of_the_recurrence(name: str, one: bool) -> None:
    """Of both orders, by either argument alone, and mapped."""
    operator = getattr(torch.ops.offline_losses, name)
    b, a = torch.randn(2, 2, 18, dtype=torch.float64)
    a = torch.tensor(0.9).double() if one else a.tanh()
    done, terminated = torch.rand(2, 2, 18) < 0.2
    for by_b, by_a in ((True, True), (True, False), (False, True)):
        given = b.clone().requires_grad_(by_b), a.clone().requires_grad_(by_a)
        assert torch.autograd.gradcheck(lambda b, a: operator(b, a, done, terminated), given)
        assert torch.autograd.gradgradcheck(lambda b, a: operator(b, a, done, terminated), given)
    mapped = torch.vmap(operator, (0, None if one else 0, 0, 0), 0)(b, a, done, terminated)
    close(mapped, recurrence(b, a, done | terminated, name == "scan_forwards"))


def test_the_product_of_a_chunk() -> None:
    """Nothing where it is cut, as large as it is, in its own precision; of one factor for all its power."""
    factors, cut = [torch.tensor([2.0, 3.0, 1e30])] * 16, torch.zeros(3, 16, dtype=torch.bool)
    cut[1, 5] = True
    product, stopped = scan._product(factors, cut)
    assert product.dtype == torch.float32
    assert product.tolist() == [2.0**16, 0.0, float("inf")]
    assert stopped.tolist() == [False, True, False]
    product, stopped = scan._product([torch.tensor(0.5)] * 16, cut)
    assert product == 0.5**16
    assert stopped.tolist() == [False, True, False]


def test_graphs_of_kernels_are_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the shapes of all tensors, of which not too many are kept; without one the kernel runs as it is."""
    fitted: list[Any] = []

    class Graphs:
        def __init__(self, plan: Any) -> None:
            self.plan = plan

        def fit(self, tensors: Any) -> Any:
            assert all(x.is_contiguous() for x in tensors)
            fitted.append(self.plan)
            return None if len(tensors[0]) == 3 else lambda *x: ["graph", len(x)]

    monkeypatch.setattr(scan, "_graphs", {})
    monkeypatch.setattr(scan, "_found", {})
    monkeypatch.setattr(scan, "Graphs", Graphs)
    monkeypatch.setattr(scan, "Plan", lambda kernel, sequential: (kernel, sequential))
    monkeypatch.setattr(scan, "SHAPES", 2)

    def kernel(*tensors: Tensor) -> list[Any]:
        return ["kernel", len(tensors)]

    def tensors(size: int) -> list[Tensor]:
        return [torch.zeros(2 * size).double()[::2], torch.tensor(0.5), torch.zeros(size, dtype=torch.bool)]

    for size, kept, often in ((2, 1, 1), (2, 1, 1), (4, 2, 2), (2, 2, 2), (3, 1, 3), (2, 2, 4), (2, 2, 4)):
        found = scan.run(kernel, *tensors(size))
        assert found == ["kernel" if size == 3 else "graph", 3]
        assert len(scan._found) == kept
        assert len(fitted) == often
    assert set(fitted) == {(kernel, True)}
    kinds = {(kernel, 0, torch.float64, torch.device("cpu"), scan.size_class(tensors(size))) for size in (2, 3, 4)}
    assert set(scan._graphs) == kinds


@pytest.mark.usefixtures("_as_they_are")
def test_the_kernels_of_the_best_stop_are_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """At lengths around one and two chunks, where stops far behind are the best; mapped too."""
    with monkeypatch.context() as patched:
        patched.setattr(stops, "stop_in_order", lambda *_: pytest.fail("no kernels"))
        for shape in [(steps,) for steps in LENGTHS for _ in range(5)] + [(3, steps) for steps in LENGTHS]:
            b, a = 0.1 * torch.randn(shape).double(), 0.9 + 0.1 * torch.rand(shape).double()
            stopped = torch.where(torch.rand(shape) < 0.8, -50.0, 5 * torch.randn(shape).double())
            a[..., -1] = 0.0
            expected = [torch.maximum(b[..., -1], stopped[..., -1])]
            for t in range(shape[-1] - 2, -1, -1):
                expected.append(torch.maximum(b[..., t] + a[..., t] * expected[-1], stopped[..., t]))
            close(stops._best_stop(b, a, stopped), torch.stack(expected[::-1], -1))
        close(torch.vmap(stops.best_stop)(b, a, stopped), torch.stack(expected[::-1], -1))
    monkeypatch.setattr(stops, "run", lambda *_: pytest.fail("a kernel"))
    monkeypatch.setattr(Process, "forked", True)
    close(stops._best_stop(b, a, stopped), torch.stack(expected[::-1], -1))
    assert stops._best_stop(*torch.zeros(3, 0, 4)).shape == (0, 4)


def test_the_operator_of_the_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its values and gradients are those of the softmax, and without values it knows their shapes."""
    hidden, head = torch.randn(5, 3).double().requires_grad_(), torch.randn(7, 3).double().requires_grad_()
    bias, scale = torch.randn(7).double().requires_grad_(), torch.tensor(0.5).double().requires_grad_()
    action = torch.arange(5)

    def of(hidden: Tensor, head: Tensor, bias: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        log_prob, normalizer, *_ = projection.projection("f", hidden, head, bias, scale, action, 4)
        return log_prob, normalizer

    logits = hidden @ head.T + bias * scale
    found, given = of(hidden, head, bias, scale), (hidden, head, bias, scale)
    close(found[0], logits.log_softmax(-1)[range(5), action])
    close(found[1], logits.logsumexp(-1))
    assert torch.autograd.gradcheck(of, given)
    for wanted in ((0,), (1,), (2, 3), (0, 1, 2, 3)):
        slopes = torch.autograd.grad(of(*given)[0].sum(), [given[i] for i in wanted])
        expected = torch.autograd.grad(logits.log_softmax(-1)[range(5), action].sum(), [given[i] for i in wanted],
                                       retain_graph=True)  # fmt: skip
        for slope, wish in zip(slopes, expected, strict=True):
            close(slope, wish)
    (slope,) = torch.autograd.grad(of(*given)[0].sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="expected one derivative, taken backwards, got a second derivative"):
        slope.sum().backward()
    assert [x.shape for x in projection._empty_rows("f", hidden.to("meta"), head)] == [(5,)] * 4
    empty = projection._empty_gradient(*given, action, *[None] * 4, (True, False, True, False), 4)
    assert [x.shape for x in empty] == [(5, 3), (7,)]


# --- graphs before they are compiled -----------------------------------------------------------------------------


def traced(function: Callable[..., Any], *arguments: Tensor) -> Any:
    """With shapes on every node, and a list of results."""
    graph = make_fx(lambda *x: list(function(*x)), tracing_mode="fake")(*arguments).graph
    graph.eliminate_dead_code()
    return graph


def run(graph: Any, *arguments: Any) -> Any:
    graph.lint()
    return GraphModule(torch.nn.Module(), graph)(*arguments)


def targets(graph: Any) -> list[Any]:
    return [node.target for node in graph.nodes if node.op == "call_function"]


def in_double(graph: Any) -> int:
    """How many sums are taken in double precision."""
    sums = [node for node in graph.nodes if node.target in (aten.sum.default, aten.sum.dim_IntList)]
    return [node.kwargs.get("dtype") for node in sums].count(torch.float64)


def test_a_graph_is_split_into_results_and_gradients() -> None:
    """What took long is kept, what was quick is computed anew, and nothing of the gradients is in the results."""
    x, y, up = torch.randn(3, 6).double(), torch.randn(6).double(), torch.randn(3, 6).double()

    def joint(x: Tensor, y: Tensor, up: Tensor) -> tuple[Tensor, ...]:
        shift = (x - x.amax(-1, keepdim=True)).exp()
        total = shift.sum(-1, keepdim=True) * 2
        value = shift / total
        by_value = value * (up - (up * value).sum(-1, keepdim=True)) / total
        return value, by_value, (by_value * y).sum(-2)

    graph = traced(joint, x, y, up)
    forward, backward = passes.split(graph, 2, 1)
    value, *kept = run(forward, x, y)
    expected = joint(x, y, up)
    close(value, expected[0])
    for found, wish in zip(run(backward, x, y, up, value, *kept), expected[1:], strict=True):
        close(found, wish)
    assert len(kept) == 1  # the sum, doubled; the largest only shifts, and is not read again
    assert aten.amax.default not in targets(backward)
    assert targets(backward).count(aten.sum.dim_IntList) == 2
    assert targets(forward).count(aten.sum.dim_IntList) == 1


def called(graph: Any, target: Any) -> Any:
    """The one node that calls it."""
    (node,) = graph.find_nodes(op="call_function", target=target)
    return node


@pytest.mark.parametrize(
    ("function", "long"),
    [
        (lambda x: x.amax(), True),
        (lambda x: x.amin(), True),
        (lambda x: x.amax(-1), True),
        (lambda x: x.amin(2), True),
        (lambda x: x.amax(0), False),
        (lambda x: x.amin(1), False),
        (lambda x: x.amax(-2), False),
        (lambda x: x.amax((0, 2)), False),
        (lambda x: x.amax(-1, keepdim=True), True),
        (lambda x: x.sum(), True),
        (lambda x: x.sum(0), True),
        (lambda x: torch.bucketize(x, x[0, 0]), True),
        (lambda x: torch.ops.offline_losses.best_stop(x, x, x), True),
        (lambda x: x.exp(), False),
        (lambda x: x + 1, False),
    ],
)
def test_what_takes_long(function: Callable[[Tensor], Tensor], long: bool) -> None:
    """Sums, the largest of a row or of all, a search, and whole algorithms; not the largest of a few critics."""
    graph = traced(lambda x: [function(x)], torch.rand(2, 3, 4))
    *_, node, _ = graph.nodes
    assert passes._takes_long(node) is long


CONVERT = torch.ops.prims.convert_element_type.default


@pytest.mark.parametrize(
    ("function", "last"),
    [
        (lambda s, x: [CONVERT(s / 4, torch.float32)], CONVERT),
        (lambda s, x: [(s / 4) + 1], aten.add.Tensor),
        (lambda s, x: [(s / 4) * x], aten.div.Tensor),
        (lambda s, x: [(s / 4).expand(3)], aten.div.Tensor),
        (lambda s, x: (lambda y: [y + 1, y - 1])(s / 4), aten.div.Tensor),
        (lambda s, x: [s + 1, s - 1], aten.sum.default),
    ],
)
def test_of_a_sum_what_is_made_of_it_alone_is_kept(function: Callable[..., Any], last: Any) -> None:
    """Until more than one thing is, or another tensor or another shape comes in, or the results are there."""
    graph = traced(lambda x: function(x.sum(), x), torch.rand(3).double())
    node, every = called(graph, aten.sum.default), list(graph.nodes)
    assert passes._finished(node, every).target is last
    assert passes._finished(node, every[: every.index(node) + 1]) is node


def split(joint: Callable[..., Any], results: int, *inputs: Tensor) -> tuple[Any, Any, int]:
    """Both graphs, which give what the whole gives, and how much is kept; the last input is for gradients."""
    forward, backward = passes.split(traced(joint, *inputs), len(inputs) - 1, results)
    found = run(forward, *inputs[:-1])
    found, kept = found[:results], found[results:]
    for one, other in zip([*found, *run(backward, *inputs, *found, *kept)], joint(*inputs), strict=True):
        close(one, other)
    for graph in (forward, backward):
        assert all(node.users or node.op in ("placeholder", "output") for node in graph.nodes)
    return forward, backward, len(kept)


def test_what_is_kept_for_gradients() -> None:
    """No quick function, nothing that is needed by them alone, and each sum before the last result."""
    x, up = torch.rand(4).double(), torch.rand(4).double()
    assert split(lambda x, up: [(e := x.exp()) + 1, up * e], 1, x, up)[2] == 0
    assert split(lambda x, up: [x + 1, up * x.sum()], 1, x, up)[2] == 0
    forward, backward, kept = split(lambda x, up: [x + 1, (n := x.sum()) * x, up * n], 2, x, up)
    assert kept == 1
    assert aten.sum.default in targets(forward)
    assert aten.sum.default not in targets(backward)
    assert split(lambda x, up: [x + 1, x.sum() * x, up * x], 2, x, up)[2] == 0
    forward, backward, kept = split(lambda x, up: [(n := x.sum() / 4) + x, (n * up) + n], 1, x, up)
    assert kept == 1
    assert aten.div.Tensor not in targets(backward)
    assert split(lambda x, up: [n := x.sum(), up * n], 1, x, up)[2] == 0  # it is a result


def test_what_an_algorithm_reads_is_kept_too() -> None:
    """Where it was computed; what came in as it is needs no copy."""
    x, up = torch.rand(4).double(), torch.rand(4).double()

    def joint(x: Tensor, up: Tensor) -> list[Tensor]:
        b = x * 2
        found = torch.ops.offline_losses.best_stop(b, x, x)
        return [found + 1, up * found * b]

    _, backward, kept = split(joint, 1, x, up)
    assert kept == 2
    assert set(targets(backward)) == {aten.mul.Tensor}


def test_flags_are_read_as_numbers() -> None:
    """By loops; one that is only handed on stays as it is."""
    x, one, other, idle = torch.randn(4), torch.rand(4) < 0.5, torch.rand(4) < 0.5, torch.rand(4) < 0.5
    graph = traced(
        lambda x, one, other, idle: (torch.where(one, x, 0.0), one & other, idle.clone()), x, one, other, idle
    )
    for node in graph.find_nodes(op="call_function", target=aten.clone.default):
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
    assert passes.read_as_numbers(graph) == [1, 2]
    blank = torch.zeros(4, dtype=torch.bool)
    found = run(graph, x, blank, blank, idle, one.float(), other.float())
    for result, expected in zip(found, (torch.where(one, x, 0.0), one & other, idle), strict=True):
        assert result.equal(expected)


def test_flags_are_written_as_numbers() -> None:
    """Bytes of zero and one; what came in goes out as it is, and numbers too."""
    x, flag = torch.randn(4), torch.rand(4) < 0.5
    graph = traced(lambda x, flag: (x > 0, x + 1, flag, ~flag), x, flag)
    assert passes.write_as_numbers(graph) == [0, 3]
    positive, more, same, other = run(graph, x, flag)
    assert positive.dtype == other.dtype == torch.uint8
    assert positive.tolist() == (x > 0).int().tolist()
    assert other.tolist() == (~flag).int().tolist()
    assert more.equal(x + 1)
    assert same.equal(flag)


@pytest.mark.parametrize(
    ("function", "doubles"),
    [
        (lambda x, flag: (x / flag.sum(-1),), 1),
        (lambda x, flag: (x / flag.sum(-1), x.double() / flag.sum(-1)), 2),
        (lambda x, flag: (x * flag.sum(-1),), 0),
        (lambda x, flag: ((lambda n: (x / n, x * n))(flag.sum(-1))[0], flag.sum(-1) * x), 1),
        (lambda x, flag: (x / flag.long().sum(-1),), 0),
    ],
)
def test_flags_are_counted_as_numbers(function: Callable[..., Any], doubles: int) -> None:
    """Where a quotient of floats wants their count."""
    x, flag = torch.rand(()), torch.rand(40) < 0.5
    graph = traced(function, x, flag)
    passes.count_as_numbers(graph)
    assert in_double(graph) == doubles
    for found, expected in zip(run(graph, x, flag), function(x, flag), strict=True):
        assert found.dtype == expected.dtype
        close(found, expected, 1e-6)


def test_a_count_that_is_wanted_otherwise_too_stays_whole() -> None:
    """Of two readers that are not both quotients, or of two dtypes."""
    flag = torch.rand(40) < 0.5
    for function in (
        lambda x, flag: (lambda n: (x / n, x * n))(flag.sum(-1)),
        lambda x, flag: (lambda n: (x / n, x.double() / n))(flag.sum(-1)),
    ):
        graph = traced(function, torch.rand(1), flag)
        passes.count_as_numbers(graph)
        assert not in_double(graph)


@pytest.mark.parametrize(
    ("function", "doubles"),
    [
        (lambda x: (x.sum(),), 1),
        (lambda x: (x.sum((0, 1)),), 1),
        (lambda x: (x.sum(1),), 0),
        (lambda x: (x.sum(-1),), 0),
        (lambda x: (x.sum(0),), 0),
        (lambda x: (x[0].sum(-1),), 1),
        (lambda x: (x.double().sum(),), 0),
        (lambda x: (x.sum(dtype=torch.float64),), 0),
    ],
)
def test_sums_over_a_batch_are_taken_in_double(function: Callable[..., Any], doubles: int) -> None:
    """And those of a row, or over critics, as they are."""
    x = torch.rand(3, 5)
    graph = traced(function, x)
    before = in_double(graph)
    passes.add_in_double(graph)
    assert in_double(graph) - before == doubles
    (found,), (expected,) = run(graph, x), function(x)
    assert found.dtype == expected.dtype
    close(found, expected, 1e-6)


def test_a_sum_over_an_open_batch_is_taken_in_double() -> None:
    """Of however many columns, one too."""
    graph = make_fx(lambda x: [x.sum(0)], tracing_mode="symbolic")(torch.rand(5, 1)).graph
    passes.add_in_double(graph)
    assert in_double(graph) == 1


def test_a_number_everywhere_is_written_beside_its_argument() -> None:
    """Whatever stands in that; other results are left as they are."""
    x = torch.tensor([1.0, torch.nan, 3.0])
    one = torch.tensor(2.0)

    def function(x: Tensor, one: Tensor) -> tuple[Tensor, ...]:
        everywhere = (one * 3).expand(3) * 2
        return x + 1, everywhere, one * 2, everywhere, (one * 3).expand(2) + 1, x * one

    graph = traced(function, x, one)
    passes.write_beside(graph)
    assert targets(graph).count(aten.where.self) == 1
    assert called(graph, aten.where.self).users
    for found, expected in zip(run(graph, x, one), function(x, one), strict=True):
        torch.testing.assert_close(found, expected, equal_nan=True)
