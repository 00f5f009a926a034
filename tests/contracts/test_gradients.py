"""Which arguments receive a gradient, that it is the right one, and that nothing leaks from what does not exist."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ledger import CASES, TAILED, Case, Flags, Knob, Option, Row, Values, leaves, total
from torch import Tensor
from torch.overrides import TorchFunctionMode

from offline_losses._core.reduce import clamped

each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_differentiable = pytest.mark.parametrize("case", [case for case in CASES if not case.row.detached], ids=str)


def with_leaves(case: Case, **build: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments whose floating-point tensors and knobs are leaves, and these leaves."""
    inputs = case.build(**build)
    for name in [*case.of(Values), *case.of(Knob)]:
        inputs[name] = torch.as_tensor(inputs[name], dtype=torch.float64).requires_grad_()
    return inputs, {name: value for name, value in inputs.items() if isinstance(value, Tensor) and value.requires_grad}


@each_case
def test_exactly_the_documented_arguments_receive_a_gradient(case: Case) -> None:
    """Targets, weights and whatever else the ledger calls detached receive none; all others do."""
    inputs, inner = with_leaves(case, batch=(9,))
    weight = torch.ones(case.shape((9,)), dtype=torch.float64, requires_grad=True)
    results = leaves(case.row.function(**inputs, **({"weight": weight} if case.row.tail else {})))
    if case.row.detached:
        assert not any(result.requires_grad for result in results)
        return
    gradients = torch.autograd.grad(total(results), [*inner.values(), weight], allow_unused=True)
    assert gradients[-1] is None
    for (name, _), gradient in zip(inner.items(), gradients, strict=False):
        expected = case.arguments[name]
        if isinstance(expected, Values):
            moved = gradient is not None and bool((gradient != 0).any())
            assert moved == expected.gradient, name


class NoClamp(TorchFunctionMode):
    """The derivative of PyTorch's own clamp at its bounds is one up to 2.13, and zero or a half since."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in ("clamp", "clamp_min", "clamp_max", "clip", "hardtanh"):
            assert not args[0].requires_grad, f"{func.__name__} is differentiated; take _core.reduce.clamped"
        return func(*args, **(kwargs or {}))


@each_differentiable
def test_the_derivative_at_a_bound_is_that_of_every_pytorch(case: Case) -> None:
    """A number on a bound is inside."""
    inputs, _ = with_leaves(case, batch=(9,))
    with NoClamp():
        case.row.function(**inputs)


def test_what_is_clamped_has_a_derivative_of_one_at_its_bounds() -> None:
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], requires_grad=True)
    assert torch.autograd.grad(clamped(x, -1.0, torch.tensor(1.0)).sum(), x)[0].tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert clamped(torch.tensor([torch.nan, torch.inf]), 0.0, 1.0).nan_to_num(5.0).tolist() == [5.0, 1.0]


@each_differentiable
def test_gradcheck_and_gradgradcheck(case: Case) -> None:
    """First and second derivatives are those of the values, with respect to knobs too."""
    inputs, inner = with_leaves(case, batch=(3,))
    skipped = {name for name in case.of(Values) if not case.arguments[name].gradient}
    if case.row.name == "cql_lagrange_losses":  # each loss is detached from the other's variable by design
        skipped |= {"gap", "log_multiplier", "threshold", "penalty_weight", "max_multiplier"}
        check_lagrange(inputs)
    if case.row.name == "quasimetric_losses":  # likewise; its room differentiates each loss by its own variables
        skipped |= {"step_distance", "log_multiplier", "step_cost", "tolerance"}
    if case.row.name in {"td3_bc_loss", "ddpg_bc_loss", "rebrac_policy_loss"}:  # the normalizer is detached by design
        skipped |= {"normalizer"} if "normalizer" in case.given else {"q", "epsilon"}
    if case.row.name == "normalize_advantage":  # so is its own
        skipped |= {"advantage", "rate"}
    names = [name for name in inner if name not in skipped]

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(leaves(case.row.function(**{**inputs, **dict(zip(names, values, strict=True))})))

    if names:
        values = [inner[name] for name in names]
        assert torch.autograd.gradcheck(function, values)
        assert case.row.once or torch.autograd.gradgradcheck(function, values)


def check_lagrange(inputs: dict[str, Any]) -> None:
    """Each of the two losses with respect to its own variables."""
    from offline_losses import cql_lagrange_losses

    def with_respect_to(field: str, *names: str) -> None:
        def function(*values: Tensor) -> Tensor:
            result: Tensor = getattr(cql_lagrange_losses(**{**inputs, **dict(zip(names, values, strict=True))}), field)
            return result

        assert torch.autograd.gradcheck(function, [inputs[name] for name in names])
        assert torch.autograd.gradgradcheck(function, [inputs[name] for name in names])

    with_respect_to("penalty", "gap", "threshold", "penalty_weight")
    with_respect_to("dual", "log_multiplier")


@pytest.mark.parametrize("case", TAILED, ids=str)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf, 1e300])
def test_what_is_masked_has_no_influence(case: Case, poison: float) -> None:
    """Neither values nor gradients see what stands in a masked sample, nor in its weight."""
    mask, weight = torch.tensor([True, False, True, False]), torch.tensor([1.0, 2.0, 0.5, 3.0]).double()

    def run(filler: float) -> tuple[list[Tensor], dict[str, Tensor]]:
        inputs = case.build()
        for name, argument in case.of(Values).items():
            if argument.batched:
                where = mask.view(-1, *[1] * len(argument.axes))
                inputs[name] = torch.where(where, inputs[name], filler).requires_grad_()
        tail = {"mask": mask, "weight": torch.where(mask, weight, filler)}
        axes = case.shape((4,))
        tail = {name: x.view(-1, *[1] * len(case.row.tail_axes)).expand(axes) for name, x in tail.items()}
        results = leaves(case.row.function(**inputs, **tail, reduction="mean"))
        if any(result.requires_grad for result in results):
            total([result for result in results if result.requires_grad]).backward()
        return results, {name: inputs[name].grad for name in case.of(Values) if inputs[name].grad is not None}

    (actual, gradients), (expected, wanted) = run(poison), run(0.0)
    assert gradients.keys() == wanted.keys()
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-12, atol=0)
        where = (~mask).view(-1, *[1] * len(case.arguments[name].axes))
        assert (torch.where(where, gradient, 0.0) == 0).all()


@pytest.mark.parametrize("case", TAILED, ids=str)
def test_nothing_left_is_zero(case: Case) -> None:
    """A mask that is False everywhere gives 0 and a gradient of 0, over NaN."""
    inputs = case.build()
    for name, argument in case.of(Values).items():
        if argument.batched:
            inputs[name] = torch.full_like(inputs[name], torch.nan).requires_grad_()
    results = leaves(case.row.function(**inputs, mask=torch.zeros(case.shape((4,)), dtype=torch.bool)))
    assert all(result == 0 for result in results)
    for result in results:
        if result.requires_grad:
            result.backward(retain_graph=True)
    for name in case.of(Values):
        assert inputs[name].grad is None or bool((inputs[name].grad == 0).all())


@pytest.mark.parametrize("case", [case for case in CASES if case.of(Flags) and not case.row.detached], ids=str)
def test_flags_and_options_carry_no_gradient_and_are_not_changed(case: Case) -> None:
    """A bool argument and a word stay what they were through the backward pass."""
    inputs, inner = with_leaves(case)
    before = {name: inputs[name].clone() for name in case.of(Flags)}
    total(case.row.function(**inputs)).backward()
    assert all(torch.equal(before[name], inputs[name]) for name in before)
    assert all(isinstance(inputs[name], str | bool) for name in case.of(Option))
    assert inner


def test_rows_that_are_detached_say_so() -> None:
    """No row is left out of the gradient contracts by accident."""
    assert {case.row.name for case in CASES if case.row.detached} == {
        "softmax_weights",
        "sparse_weights",
        "return_filter",
        "return_threshold",
        "sampling_probabilities",
        "awr_weights",
        "crr_weights",
        "importance_weights",
        "normalize_weights",
        "support_mask",
        "hindsight_goals",
        "goal_reward",
        "transitive_weights",
        "mpo_weights",
        "top_fraction_weights",
        "advantage_indicator",
        "probability_of_improvement",
        "clip_fraction",
        "dice_weights",
    }
    assert all(isinstance(case.row, Row) for case in CASES)
