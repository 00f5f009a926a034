"""What a call may be made of: numbers of every kind, our names, one device, tensors whose rows are equally long."""

from __future__ import annotations

import inspect
import itertools
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ledger import CASES, LEDGER, TOOLS, Case, Flags, Knob, Row, Values, leaves
from test_fused import fused_twin, operator_by_operator
from test_transforms import MAIN
from torch import Tensor

import offline_losses
from offline_losses import fused
from offline_losses._compile import private, twin
from offline_losses._core.public import OURS

each_row = pytest.mark.parametrize("row", LEDGER, ids=lambda row: row.name)
FULLEST = list({case.row.name: case for case in CASES}.values())
each_function = pytest.mark.parametrize("case", FULLEST, ids=lambda case: case.row.name)
REAL = [np.float64, np.float32, np.float16]
NUMBERS = [*REAL, np.int64, np.int32, np.uint8]


@pytest.mark.parametrize(
    ("case", "traced"),
    [
        pytest.param(case, traced, id=f"{'fused' if traced else 'eager'}-{case.row.name}")
        for traced in (False, True)
        for case in FULLEST
        if case.of(Knob) and (not traced or case.row.name in {*MAIN, "lambda_return"})
    ],
)
def test_numpy_numbers_are_numbers(case: Case, traced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of number that NumPy has gives the result of the same number of Python."""
    monkeypatch.setattr(private.COMPILER, "compile_fx_inner", operator_by_operator)
    monkeypatch.setattr(twin, "SMALL", 0)
    monkeypatch.setattr(twin, "BY_EPISODES", {})
    function = fused_twin(case) if traced else case.row.function
    inputs = case.build(dtype=torch.float32)
    for (name, knob), kind in itertools.product(case.of(Knob).items(), NUMBERS):
        fits = [value for value in (knob.value, *knob.schedule) if value >= 0]
        for value in [value for value in fits if kind in REAL or value == int(value)][:1]:
            number = kind(value)
            results = [leaves(function(**{**inputs, name: each})) for each in (number, float(number))]
            for one, other in zip(*results, strict=True):
                assert one.dtype == other.dtype
                torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", [case for case in FULLEST if case.of(Knob)], ids=lambda case: case.row.name)
def test_numpy_knobs_are_held_to_their_range(case: Case) -> None:
    """A number of NumPy outside the interval is refused as Python's is, and its bool is no number."""
    for name, knob in case.of(Knob).items():
        for value in (*map(np.float32, knob.outside), np.bool_(True)):
            error = TypeError if isinstance(value, np.bool_) else ValueError
            with pytest.raises(error, match=f"{case.row.name}: {name}: expected"):
                case.row.function(**{**case.build(), name: value})


@each_function
def test_rows_of_different_length_are_refused_by_name(case: Case) -> None:
    """A nested tensor, jagged or not, in place of any tensor: a sentence, never a number or an internal error."""
    inputs = case.build()
    for name in [*case.of(Values), *case.of(Flags)]:
        for layout in (torch.jagged, torch.strided):
            parts = [torch.ones(2).to(inputs[name].dtype), torch.ones(3).to(inputs[name].dtype)]
            nested = torch.nested.nested_tensor(parts, layout=layout)
            for module in (offline_losses, fused):
                with pytest.raises(TypeError, match=f"{case.row.name}: {name}: expected rows of equal length"):
                    getattr(module, case.row.name)(**{**inputs, name: nested})


@each_function
def test_critics_in_a_list_are_stacked_by_the_caller(case: Case) -> None:
    """The refusal says how."""
    inputs = case.build()
    for name in case.of(Values):
        for each in ([inputs[name]] * 2, (inputs[name],) * 2):
            with pytest.raises(TypeError, match=rf"{case.row.name}: {name}: .+ torch\.stack\({name}\)\."):
                case.row.function(**{**inputs, name: each})


@pytest.mark.parametrize("module", [offline_losses, fused], ids=["eager", "fused"])
@each_function
def test_one_device(case: Case, module: Any) -> None:
    """A tensor that lies elsewhere is named, and the call that moves it."""
    inputs = case.build()
    tensors = [name for name in [*case.of(Values), *case.of(Flags)] if inputs[name].ndim]
    if case.row.name == "double_q_target":  # PyTorch lets indices without values gather; a card refuses
        tensors = ["reward", "terminated"]
    if case.row.name == "quasimetric_losses":  # each of its losses is of one tensor and may lie where it likes
        return
    for name in tensors[1:]:
        elsewhere = {**inputs, name: inputs[name].to("meta")}
        with pytest.raises(ValueError, match=rf"\w+: {name}: expected a tensor on .+{name}\.to\(\w+\.device\)\."):
            getattr(module, case.row.name)(**elsewhere)


@each_row
def test_other_names_are_told_ours(row: Row) -> None:
    """What another library calls an argument is answered with our word for it, by position or by name."""
    parameters = inspect.signature(row.function).parameters
    inputs = Case(row, row.alternatives[:1]).build()
    known = {theirs: ours for theirs, ours in OURS.items() if set(ours) & set(parameters) and theirs not in parameters}
    for name in [*known, "gibberish"]:
        refusal = rf"{row.name}: {name}: expected one of the arguments .+, got {name}\. "
        with pytest.raises(TypeError, match=refusal) as said:
            row.function(**inputs, **{name: 0.5})
        words = [text for argument, text in known.get(name, {}).items() if argument in parameters]
        assert str(said.value).endswith(f"Say {' or '.join(words)}." if words else "Leave it out."), said.value
    for name in ("tau", "beta", "gamma", "done"):
        assert name in OURS


@each_row
def test_a_knob_by_position_is_told_its_name(row: Row) -> None:
    """Python's own refusal counts arguments and names none."""
    parameters = inspect.signature(row.function).parameters.values()
    by_position = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    named = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    inputs = Case(row, ()).build() if not row.alternatives else Case(row, row.alternatives[:1]).build()
    if named:
        with pytest.raises(TypeError, match=rf"{row.name}: {named[0]}: expected by name, .+ Write {named[0]}=\.\.\.\."):
            row.function(*(inputs[name] for name in by_position), 0.5)


def test_an_error_from_inside_is_left_as_it_is() -> None:
    """Only what was wrong with the call is put into other words."""

    class Odd(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.Tensor.amin:
                raise TypeError("from inside")
            return super().__torch_function__(func, types, args, kwargs or {})

    with pytest.raises(TypeError, match=r"^from inside$"):
        offline_losses.ensemble_min(torch.zeros(2, 3).as_subclass(Odd))
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'target'"):
        offline_losses.squared_loss(torch.zeros(2))


@pytest.mark.parametrize("name", [name for name in offline_losses.__all__ if name not in TOOLS])
def test_a_public_function_is_found_where_it_is_written(name: str) -> None:
    """Pickled by its name, documented by its signature, and read from its source."""
    function = getattr(offline_losses, name)
    if not inspect.isfunction(function):
        return
    assert pickle.loads(pickle.dumps(function)) is function
    assert f"def {name}(" in inspect.getsource(function)
    assert not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())


def test_each_function_is_compiled_for_itself() -> None:
    """Dynamo counts how often a code object was compiled: that of one function is not that of another."""
    torch._dynamo.reset()
    x, y = torch.randn(6), torch.randn(6)
    losses: list[Callable[..., Tensor]] = [
        offline_losses.squared_loss,
        offline_losses.huber_loss,
        offline_losses.expectile_loss,
        offline_losses.quantile_loss,
    ]
    assert len({loss.__code__ for loss in losses}) == len(losses)
    with torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        for loss in losses:
            torch.compile(loss, fullgraph=True, backend="eager")(x, y)


def test_the_refusals_of_knobs_are_whole_sentences() -> None:
    """Each hint reads as one."""
    for ours in OURS.values():
        for argument, said in ours.items():
            assert said.startswith(argument)
            assert not re.search(r"[.;]$", said)
