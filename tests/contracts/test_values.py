"""Every function against its oracle: values, shapes and dtypes, in every precision."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from ledger import CASES, TAILED, Case, Count, Flags, Knob, Option, Rows, Values, leaves
from oracles import reduced
from torch import Tensor

each_case = pytest.mark.parametrize("case", CASES, ids=str)
EXACT = {"b": torch.bool, "i": torch.int64}
"""The dtypes of flags and places."""


def plain(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same arguments for an oracle: float64 arrays."""
    return {
        name: (value.double() if value.is_floating_point() else value).numpy() if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }


def call(case: Case, inputs: dict[str, Any], **tail: Any) -> list[Tensor]:
    """The function's results, element by element for a loss."""
    tail = {"reduction": "none", **tail} if case.row.tail else tail
    return leaves(case.row.function(**inputs, **tail))


def wanted(case: Case, inputs: dict[str, Any]) -> list[np.ndarray]:
    """The oracle's results."""
    result = case.row.oracle(**plain(inputs))
    return list(result) if isinstance(result, tuple) else [result]


@each_case
@pytest.mark.parametrize("batch", [(), (1,), (4,), (2, 3)], ids=str)
@pytest.mark.parametrize("seed", [1, 2])
def test_float64_equals_the_oracle(case: Case, batch: tuple[int, ...], seed: int) -> None:
    """Value and shape, for every batch shape, an empty one included."""
    if case.critics and (case.shape(()) == () or case.of(Flags)):  # one number, or flag, is not that of several
        batch = batch or (1,)
    inputs = case.build(batch, seed=seed)
    for actual, expected in zip(call(case, inputs), wanted(case, inputs), strict=True):
        assert actual.shape == expected.shape
        assert actual.dtype == EXACT.get(expected.dtype.kind, torch.float64)
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", {case.row.name: case for case in reversed(CASES)}.values(), ids=str)
def test_defaults_are_the_oracles(case: Case) -> None:
    """Of each number and word that the oracle knows too; a chunk changes none of them."""
    ours, known = (inspect.signature(each).parameters for each in (case.row.function, case.row.oracle))
    options = [name for name in {**case.of(Knob), **case.of(Option), **case.of(Count)} if name != "chunk"]
    given = [name for name in options if ours[name].default is not inspect.Parameter.empty]
    for name in given:
        if name in known:
            assert ours[name].default == known[name].default, name
    inputs = {name: value for name, value in case.build().items() if name not in given}
    for actual, expected in zip(call(case, inputs), wanted(case, inputs), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_lower_precision_is_computed_in_float32(case: Case, dtype: torch.dtype) -> None:
    """The error is that of float32, plus one rounding to the input's dtype for a quantity that sums over no axis."""
    inputs = case.build(dtype=dtype)
    result = torch.float32 if case.row.tail or case.row.sums else dtype
    tolerance = 3e-6 if result == torch.float32 else torch.finfo(dtype).eps
    for actual, expected in zip(call(case, inputs), wanted(case, inputs), strict=True):
        assert actual.dtype == EXACT.get(expected.dtype.kind, result)
        np.testing.assert_allclose(actual.double(), expected, rtol=tolerance, atol=2e-6)


@pytest.mark.parametrize("case", TAILED, ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("tail", [(), ("mask",), ("weight",), ("mask", "weight")], ids="+".join)
def test_mask_weight_and_reduction(case: Case, reduction: str, tail: tuple[str, ...]) -> None:
    """Σ mask·weight·loss / max(1, Σ mask), with critics counted, and never the weights in the denominator."""
    inputs, batch = case.build((2, 5)), case.shape((2, 5))
    generator = torch.Generator().manual_seed(5)
    options = {
        "mask": torch.rand(batch, generator=generator) < 0.6,
        "weight": 3 * torch.rand(batch, generator=generator, dtype=torch.float64),
    }
    given = {name: options[name] for name in tail}
    knows = {"mask": options["mask"].numpy()} if case.row.batch_statistic and "mask" in tail else {}
    result = case.row.oracle(**plain(inputs), **knows)
    for actual, elements in zip(
        call(case, inputs, reduction=reduction, **given),
        result if isinstance(result, tuple) else [result],
        strict=True,
    ):
        expected = reduced(elements, **{name: value.numpy() for name, value in given.items()}, reduction=reduction)
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", TAILED, ids=str)
def test_a_denominator_replaces_the_count(case: Case) -> None:
    """A number of any kind, less than one too, and a constant for the gradient; zero, where nothing exists, is one."""
    inputs, shape = case.build((2, 5)), case.shape((2, 5))
    generator = torch.Generator().manual_seed(5)
    tail = {"mask": torch.rand(shape, generator=generator) < 0.6, "weight": torch.rand(shape, generator=generator)}
    sums = call(case, inputs, **tail, reduction="sum")
    slope = torch.tensor(0.5, requires_grad=True)
    numbers = [(x, x) for x in (7, 0.5, 0)]
    tensors = [(torch.tensor(7), 7), (torch.tensor(7.0).bfloat16(), 7), (torch.tensor(0), 0), (slope, 0.5)]
    for denominator, number in [*numbers, *tensors]:
        means = call(case, inputs, **tail, reduction="mean", denominator=denominator)
        for mean, total in zip(means, sums, strict=True):
            assert mean.dtype == total.dtype
            assert not mean.requires_grad
            torch.testing.assert_close(mean, total / (number or 1), rtol=1e-12, atol=0)


APART = [case for case in TAILED if case.apart and not case.critics]


@pytest.mark.parametrize("case", APART, ids=str)
def test_micro_batches_over_one_denominator_are_the_batch(case: Case) -> None:
    """However unevenly they are cut and masked, one without a sample that exists among them."""
    inputs, mask = case.build((7,)), torch.tensor([True, False, True, False, False, True, True])
    batched = [*case.of(Flags), *case.of(Rows), *(name for name, x in case.of(Values).items() if x.batched)]
    parts = []
    for part in (torch.arange(0, 3), torch.arange(3, 5), torch.arange(5, 7)):
        rows = {name: inputs[name].index_select(int(case.leads(case.arguments[name])), part) for name in batched}
        parts.append(call(case, {**inputs, **rows}, mask=mask[part], reduction="mean", denominator=mask.sum()))
    whole = call(case, inputs, mask=mask, reduction="mean")
    torch.testing.assert_close([sum(each) for each in zip(*parts, strict=True)], whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", [case for case in TAILED if case.critics], ids=str)
def test_mask_and_weight_may_differ_between_critics(case: Case) -> None:
    """A mask and a weight with the critic axis select and weigh each critic's samples (a bootstrapped ensemble)."""
    inputs = case.build()
    mask, weight = torch.rand(2, 4) < 0.5, torch.rand(2, 4)
    knows = {"mask": mask.numpy()} if case.row.batch_statistic else {}
    elements = case.row.oracle(**plain(inputs), **knows)
    for index, actual in enumerate(call(case, inputs, reduction="mean", mask=mask, weight=weight)):
        each = elements[index] if isinstance(elements, tuple) else elements
        expected = reduced(each, mask=mask.numpy(), weight=weight.numpy())
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


@each_case
def test_strided_and_expanded_inputs(case: Case) -> None:
    """Where a tensor lies in memory does not matter."""
    inputs = case.build((3, 4))
    strided = {
        name: torch.stack([value, value], -1)[..., 0] if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }
    assert not all(value.is_contiguous() for value in strided.values() if isinstance(value, Tensor) and value.ndim)
    for actual, expected in zip(call(case, strided), call(case, inputs), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@each_case
def test_an_empty_batch(case: Case) -> None:
    """No samples give an empty result, a loss of zero, or a refusal that says so; never NaN."""
    inputs = case.build((0,))
    if case.row.refuses_nothing:
        with pytest.raises(ValueError, match=r"expected a last axis of at least one (step|sample|episode)"):
            case.row.function(**inputs)
        return
    for result in leaves(case.row.function(**inputs)):
        assert not result.isnan().any()
        assert not case.row.tail or result == 0


@each_case
def test_inputs_and_the_random_state_stay_as_they_are(case: Case) -> None:
    """Pure: nothing is written into an argument, nothing is drawn."""
    inputs = case.build()
    before = {name: value.clone() for name, value in inputs.items() if isinstance(value, Tensor)}
    state = torch.get_rng_state()
    call(case, inputs)
    assert torch.equal(state, torch.get_rng_state())
    for name, value in before.items():
        assert torch.equal(value, inputs[name])


@each_case
def test_knobs_may_be_tensors(case: Case) -> None:
    """A 0-d tensor in place of a Python number gives the same result."""
    inputs = case.build()
    tensors = {
        name: torch.tensor(value, dtype=torch.float64) if isinstance(value, float) else value
        for name, value in inputs.items()
    }
    for actual, expected in zip(call(case, tensors), call(case, inputs), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@each_case
def test_nothing_looks_at_a_value(case: Case) -> None:
    """Runs on the meta device, which has no values: no synchronization, no data-dependent shape or branch."""
    inputs = {name: value.to("meta") if isinstance(value, Tensor) else value for name, value in case.build().items()}
    on_cpu = call(case, case.build())
    for actual, expected in zip(call(case, inputs), on_cpu, strict=True):
        assert actual.is_meta
        assert actual.shape == expected.shape


def test_every_values_argument_is_covered() -> None:
    """Each case passes at least one floating-point tensor."""
    assert all(case.of(Values) for case in CASES)
