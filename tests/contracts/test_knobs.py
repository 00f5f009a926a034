"""Knobs of one number for each run: `[R, 1]` beside a batch `[R, B]`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ledger import CASES, MULTIPLIERS, OF_ALL, OF_RUNS, TAILED, Case, Knob, Rows, Values, leaves, total
from torch import Tensor

RUNS, BATCH = 3, 4


each_knob = pytest.mark.parametrize(
    ("case", "name"), [pytest.param(case, name, id=f"{case}-{name}") for case in OF_RUNS for name in case.of(Knob)]
)


def run_axes(case: Case) -> dict[str, int]:
    """Where the runs of each tensor lie that has some."""
    return {
        name: 1 if isinstance(argument, Values) and case.leads(argument) else 0
        for name, argument in case.arguments.items()
        if isinstance(argument, Rows) or (getattr(argument, "axes", None) is not None)
        if getattr(argument, "batched", True)
    }


def call(case: Case, inputs: dict[str, Any]) -> list[Tensor]:
    """All results, element by element."""
    return leaves(case.row.function(**inputs, **({"reduction": "none"} if case.row.tail else {})))


def of_run(case: Case, inputs: dict[str, Any], i: int) -> dict[str, Any]:
    """The arguments of one run; all of them where one sample's result depends on the others'."""
    if not case.apart:
        return inputs
    return {**inputs, **{name: inputs[name].select(axis, i) for name, axis in run_axes(case).items()}}


def row(x: Tensor, i: int) -> Tensor:
    """The result of one run: critics come before runs, and are fewer."""
    return x.select(x.shape.index(RUNS), i)


@each_knob
def test_a_run_is_what_it_is_alone(case: Case, name: str) -> None:
    """Value, and gradient of the knob and of all else."""
    inputs, differentiable = case.build((RUNS, BATCH)), not case.row.detached and case.arguments[name].gradient
    names = [each for each, x in case.of(Values).items() if x.gradient] if differentiable else []
    inputs |= {each: inputs[each].requires_grad_() for each in names}
    knob = case.knobs_of_runs(RUNS)[name].requires_grad_(differentiable)
    together, alone = call(case, {**inputs, name: knob}), []
    for i, number in enumerate(knob.flatten()):
        found = call(case, {**of_run(case, inputs, i), name: number})
        alone.append(found if case.apart else [row(x, i) for x in found])
    apart = [torch.stack(x, y.shape.index(RUNS)) for *x, y in zip(*alone, together, strict=True)]
    torch.testing.assert_close(together, apart, rtol=1e-10, atol=1e-12)
    if differentiable:
        wrt = [knob, *(inputs[each] for each in names)]
        slopes, wanted = (torch.autograd.grad(total(x), wrt, materialize_grads=True) for x in (together, apart))
        torch.testing.assert_close(slopes, wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("case", [case for case in OF_RUNS if case.apart], ids=str)
def test_vmap_over_runs_agrees(case: Case) -> None:
    """All knobs at once; and the result has the dtype that numbers give."""
    inputs, axes, knobs = case.build((RUNS, BATCH)), run_axes(case), case.knobs_of_runs(RUNS)

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(call(case, {**inputs, **dict(zip([*axes, *knobs], tensors, strict=True))}))

    given = [*(inputs[name] for name in axes), *(x.flatten() for x in knobs.values())]
    mapped = torch.func.vmap(function, in_dims=(*axes.values(), *[0] * len(knobs)))(*given)
    for one, other in zip(call(case, {**inputs, **knobs}), mapped, strict=True):
        torch.testing.assert_close(one.movedim(one.shape.index(RUNS), 0), other, rtol=1e-10, atol=1e-12)
    half = case.build((RUNS, BATCH), dtype=torch.bfloat16)
    singles = {name: x.float() for name, x in knobs.items()}
    for one, other in zip(call(case, {**half, **singles}), call(case, half), strict=True):
        assert one.dtype == other.dtype


@each_knob
def test_other_shapes_are_refused_by_name(case: Case, name: str) -> None:
    """Without the batch's axes, with more than those, or of another number of runs."""
    inputs, knob = case.build((RUNS, BATCH)), case.knobs_of_runs(RUNS)[name].flatten()
    for wrong in (knob, knob[:2].unsqueeze(-1), knob.view(RUNS, 1, 1, 1, 1)):
        with pytest.raises(
            ValueError, match=rf"^{case.row.name}: {name}: expected shape \[\] or shape \[.*\].*, got shape"
        ):
            case.row.function(**{**inputs, name: wrong})


@pytest.mark.parametrize("case", [case for case in CASES if case.of(Knob) and case.row.one_number], ids=str)
def test_what_takes_all_samples_together_takes_one_number(case: Case) -> None:
    """And says so."""
    knobs = case.knobs_of_runs(RUNS)
    if case.row.name in OF_ALL:
        knobs["denominator"] = torch.full((RUNS, 1), 4.0, dtype=torch.float64)
    for name, knob in knobs.items():
        refusal = rf"^{case.row.name}: {name}: expected shape \[\], got shape \[3, 1\]. All of the batch"
        with pytest.raises(ValueError, match=refusal):
            case.row.function(**{**case.build((RUNS, BATCH)), name: knob})


@pytest.mark.parametrize("case", [case for case in TAILED if not case.critics and case.row.name not in OF_ALL], ids=str)
def test_a_denominator_for_each_run(case: Case) -> None:
    """The sum of the runs' means."""
    inputs, count = case.build((RUNS, BATCH)), torch.tensor([[2.0], [3.0], [4.0]], dtype=torch.float64)
    if case.row.tail_axes:
        count = count.unsqueeze(-1)
    elements = call(case, inputs)
    means = leaves(case.row.function(**inputs, denominator=count))
    torch.testing.assert_close(means, [(x / count).sum() for x in elements], rtol=1e-12, atol=1e-12)


each_dual = pytest.mark.parametrize("case", [case for case in CASES if case.row.name in MULTIPLIERS], ids=str)


@each_dual
def test_a_multiplier_for_each_run(case: Case) -> None:
    """Is that run's alone, with its gradient: as they are, mapped over the runs, and in a compiled region."""
    name, inputs, axes = MULTIPLIERS[case.row.name], case.build((RUNS, BATCH)), run_axes(case)
    shape = next(iter(case.knobs_of_runs(RUNS).values())).shape
    multiplier = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64).requires_grad_()

    def element(multiplier: Tensor, *own: Tensor) -> Tensor:
        return torch.stack(call(case, {**inputs, **dict(zip(axes, own, strict=True)), name: multiplier}))

    given = [inputs[each] for each in axes]
    mapped = torch.func.vmap(element, in_dims=(0, *axes.values()))(multiplier, *given)
    compiled = torch.compile(element, fullgraph=True, backend="eager")
    wanted = mapped.movedim(0, -2)
    (slope,) = torch.autograd.grad(wanted.sum(), multiplier)
    for way in (element, compiled):
        found = way(multiplier.view(shape), *given)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(*torch.autograd.grad(found.sum(), multiplier), slope, rtol=1e-12, atol=1e-12)


@each_dual
def test_multipliers_of_other_runs_are_refused_by_name(case: Case) -> None:
    name, inputs = MULTIPLIERS[case.row.name], case.build((RUNS, BATCH))
    for wrong in (torch.zeros(RUNS), torch.zeros(RUNS - 1, 1), torch.zeros(1, 1, RUNS, 1)):
        with pytest.raises(ValueError, match=rf"^{case.row.name}: {name}: expected shape \[\] or shape \[.*\].*, got"):
            case.row.function(**{**inputs, name: wrong})
    with pytest.raises(TypeError, match=f"^{case.row.name}: {name}: expected"):
        case.row.function(**{**inputs, name: 0.0})
