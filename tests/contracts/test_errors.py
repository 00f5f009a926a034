"""Every kind of wrong input, for every public function: refused, by name, in one form of words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from ledger import CASES, SIZES, TAILED, Case, Count, Flags, Index, Knob, Option, Rows, Values

import offline_losses

BATCH = (4,)
Wrong = tuple[str, Any, type[Exception]]


def wrong_inputs(case: Case) -> Iterator[Wrong]:
    """An argument, a wrong value for it, and the error that it must meet."""
    inputs = case.build(BATCH)
    every = [*case.of(Values), *case.of(Flags), *case.of(Rows)]
    tensors = [name for name in every if getattr(case.arguments[name], "batched", True)]
    for name, argument in case.of(Values).items():
        yield name, inputs[name].long(), TypeError
        yield name, inputs[name].numpy(), TypeError
        if not argument.optional:
            yield name, None, TypeError
    for name in case.of(Flags):
        yield name, inputs[name].double(), TypeError
        yield name, inputs[name].long(), TypeError
    for name in tensors:
        if len(tensors) > 1 or case.row.name == "linear_recurrence":
            yield name, inputs[name].unsqueeze(-1), ValueError
        if len(tensors) > 1:
            yield name, torch.cat([inputs[name]] * 2, int(case.leads(case.arguments[name]))), ValueError
    for name in case.of(Values):
        if name not in tensors:
            yield name, inputs[name].expand(2, 9, *inputs[name].shape), ValueError
    for name, argument in case.of(Knob).items():
        yield from ((name, value, ValueError) for value in argument.outside)
        yield name, torch.full((*BATCH, 9), argument.value), ValueError
        yield name, torch.tensor(1), TypeError
        yield name, "high", TypeError
        yield name, True, TypeError
        if not argument.optional:
            yield name, None, TypeError
    for name in case.of(Option):
        yield name, "other", ValueError
    for name, argument in case.of(Count).items():
        yield from ((name, value, ValueError) for value in argument.outside)
        yield name, 1.5, TypeError
    for name in case.of(Rows):
        yield name, inputs[name].double(), TypeError
        yield name, inputs[name].int(), TypeError
        yield name, inputs[name].numpy(), TypeError
    for name in case.of(Index):
        yield name, [0], TypeError
        yield name, inputs[name].int(), TypeError
        yield name, inputs[name][None], ValueError
        yield name, inputs[name][:0], ValueError
    if case.row.tail:
        yield "mask", torch.ones(BATCH), TypeError
        yield "mask", torch.ones((*BATCH, 1), dtype=torch.bool), ValueError
        yield "weight", torch.ones(BATCH, dtype=torch.long), TypeError
        yield "weight", torch.ones((*BATCH, 1)), ValueError
        yield "weight", 2.0, TypeError
        yield "reduction", "average", ValueError
        yield from (("denominator", value, ValueError) for value in (-1.0, torch.inf, torch.nan))
        yield "denominator", torch.ones(2), ValueError
        yield "denominator", torch.tensor(True), TypeError
        yield "denominator", True, TypeError
        yield "denominator", "batch", TypeError


def describe(value: Any) -> str:
    """A short name of a wrong value for the test's id."""
    if hasattr(value, "shape"):
        return f"{type(value).__name__}{list(value.shape)}{value.dtype}".replace("torch.", "")
    return repr(value)


EVERYTHING = [(case, *wrong) for case in CASES for wrong in wrong_inputs(case)]


@pytest.mark.parametrize(
    ("case", "name", "value", "error"), EVERYTHING, ids=lambda x: str(x) if isinstance(x, (Case, str)) else describe(x)
)
def test_wrong_input_is_refused_by_name(case: Case, name: str, value: Any, error: type[Exception]) -> None:
    """`function: argument: expected ..., got .... How to mend it.`"""
    inputs = {**case.build(BATCH), name: value}
    with pytest.raises(error) as caught:
        case.row.function(**inputs)
    message = str(caught.value)
    found = re.fullmatch(rf"{case.row.name}: (\w+): expected (.+), got (.+?)\. ([A-Z].+\.)", message, re.DOTALL)
    assert found, message
    if not (error is ValueError and hasattr(value, "shape")):  # of two shapes that differ, either may be named
        assert found[1] == name, message


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_only_a_mean_has_a_denominator(reduction: str) -> None:
    """Of a sum it would be ignored, or make a mean of it."""
    x = torch.zeros(4)
    refusal = f"squared_loss: denominator: expected None with reduction='{reduction}', got 4 of type int. Only the mean"
    with pytest.raises(ValueError, match=refusal):
        offline_losses.squared_loss(x, x, reduction=reduction, denominator=4)  # type: ignore[arg-type]


def test_the_broadcast_trap_is_explained() -> None:
    """A column against a vector names both shapes, and the call that mends it."""
    message = (
        "expectile_loss: target: expected shape [4, 1] (that of prediction), got shape [4]. "
        "Nothing is broadcast between samples: reshape it to match. Here prediction.squeeze(-1) does."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        offline_losses.expectile_loss(torch.zeros(4, 1), torch.zeros(4))
    with pytest.raises(ValueError, match=r"Here target\.squeeze\(-1\) does\."):
        offline_losses.expectile_loss(torch.zeros(4), torch.zeros(4, 1))


def test_half_of_a_bootstrap_is_refused() -> None:
    """A next value without its terminations, or the reverse, would be a guess."""
    step, flag = torch.ones(3), torch.zeros(3, dtype=torch.bool)
    with pytest.raises(
        ValueError, match="discounted_return: terminated: expected a tensor because next_value is given"
    ):
        offline_losses.discounted_return(step, flag, next_value=step)
    with pytest.raises(
        ValueError, match="discounted_return: next_value: expected a tensor because terminated is given"
    ):
        offline_losses.discounted_return(step, flag, terminated=flag)


def test_an_action_is_given_in_one_form() -> None:
    """Both forms, or neither, are refused."""
    mean = torch.zeros(2, 3)
    for given in ({}, {"action": mean, "pre_tanh": mean}):
        with pytest.raises(ValueError, match="tanh_gaussian_log_prob: action: expected exactly one"):
            offline_losses.tanh_gaussian_log_prob(mean, mean, **given)


@pytest.mark.parametrize("name", ["ensemble_min", "ensemble_mean", "ensemble_mix", "ensemble_lower_bound"])
@pytest.mark.parametrize("q", [torch.tensor(1.0), torch.zeros(0, 3)], ids=["no axis", "no critic"])
def test_an_ensemble_has_critics(name: str, q: torch.Tensor) -> None:
    """A reduction over no critics is refused."""
    with pytest.raises(ValueError, match=f"{name}: q: expected a first axis of at least one critic"):
        getattr(offline_losses, name)(q)


@pytest.mark.parametrize(
    ("name", "argument"),
    [("soft_value", "q"), ("softmax_weights", "q"), ("softmax_entropy", "q"), ("linear_recurrence", "b")],
)
def test_a_last_axis_is_needed(name: str, argument: str) -> None:
    """Without candidates, or without steps, there is nothing to compute."""
    for shape in [(), (3, 0)]:
        inputs = [torch.zeros(shape)] * (2 if name == "linear_recurrence" else 1)
        with pytest.raises(ValueError, match=f"{name}: {argument}: expected a last axis of at least one"):
            getattr(offline_losses, name)(*inputs)


@pytest.mark.parametrize(
    ("name", "argument", "what"),
    [
        ("mpo_weights", "q", "sample"),
        ("mpo_temperature_loss", "q", "sample"),
        ("best_of_n", "q", "candidate"),
        ("gaussian_kl_penalty", "mean", "dimension"),
        ("categorical_kl_penalty", "logits", "action"),
        ("discrete_sac_loss", "logits", "action"),
        ("discrete_soft_target", "next_q", "action"),
        ("rebrac_policy_loss", "policy_action", "dimension"),
        ("rebrac_target", "next_policy_action", "dimension"),
        ("smoothed_action", "action", "dimension"),
        ("contrastive_loss", "logits", "goal"),
        ("td3_bc_loss", "policy_action", "dimension"),
        ("expected_target", "next_q", "action"),
        ("double_q_target", "next_q_online", "action"),
        ("cql_logsumexp_penalty", "q_candidates", "candidate"),
        ("cql_max_penalty", "q_candidates", "candidate"),
        ("calibrated_value", "q_candidates", "candidate"),
        ("gaussian_log_prob", "mean", "dimension"),
        ("uniform_log_density", "action", "dimension"),
        ("observation_statistics", "observation", "dimension"),
        ("normalize_observation", "observation", "dimension"),
        ("observation_moments", "observation", "dimension"),
        ("merged_moments", "mean", "dimension"),
        ("moment_statistics", "mean", "dimension"),
        ("support_coverage", "probability", "action"),
    ],
)
def test_an_axis_of_actions_is_needed(name: str, argument: str, what: str) -> None:
    """Empty, it is refused before anything is summed over it."""
    case = next(case for case in CASES if case.row.name == name)
    inputs = case.build(BATCH, sizes={**SIZES, "N": 0, "A": 0, "D": 0})
    with pytest.raises(ValueError, match=f"{name}: {argument}: expected a last axis of at least one {what}"):
        case.row.function(**inputs)


def test_polyak_update_refuses_what_does_not_fit() -> None:
    """Another number of tensors, other shapes, something that is no tensor, a share outside [0, 1]."""
    one, two = torch.nn.Linear(2, 2), torch.nn.Linear(2, 3)
    with pytest.raises(ValueError, match="polyak_update_: target: expected the 2 tensors and the shapes of online"):
        offline_losses.polyak_update_(one, two)
    with pytest.raises(ValueError, match="polyak_update_: polyak: expected a number in"):
        offline_losses.polyak_update_(one, one, polyak=1.5)
    for nothing in (3, torch.zeros(2), [1.0], [torch.zeros(2), 1.0]):
        with pytest.raises(
            TypeError, match=r"polyak_update_: target: expected a torch\.nn\.Module or a list of tensors"
        ):
            offline_losses.polyak_update_(nothing, one)


@pytest.mark.parametrize("case", TAILED, ids=str)
def test_a_mask_and_a_weight_are_for_each_sample(case: Case) -> None:
    """One for a row of samples, for a column, or for all is refused."""
    inputs, samples = case.build((2, 3)), case.shape((2, 3))
    for shape in {(), (2,), (3,), (2, 3, 1)} - {samples, samples[1:] if case.critics else samples}:
        for given in ({"mask": torch.ones(shape, dtype=torch.bool)}, {"weight": torch.ones(shape)}):
            with pytest.raises(ValueError, match=rf"{case.row.name}: {next(iter(given))}: expected shape"):
                case.row.function(**inputs, **given)
