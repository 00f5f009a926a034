"""The ledger is complete, and every signature and docstring follows from its name."""

from __future__ import annotations

import inspect

import ledger
import pytest
from ledger import LEDGER, OF_ALL, TOOLS, UPDATES, Row
from oracles import ORACLES

import offline_losses

PUBLIC = [name for name in offline_losses.__all__ if inspect.isfunction(getattr(offline_losses, name))]
FUNCTIONS = [name for name in PUBLIC if name not in TOOLS]
BANNED = {"tau", "alpha", "beta", "gamma", "dones", "lambda", "lr"}
QUANTITIES = (
    "_target",
    "_return",
    "_value",
    "_advantage",
    "_error",
    "_log_prob",
    "_weights",
    "_filter",
    "_interval",
    "_mask",
)
TAIL = {"mask": None, "weight": None, "reduction": "mean", "denominator": None}
DENOMINATOR = "what the mean is divided by, in place of its own count; one number{}, detached."
SECTIONS = ["$$", "Args:", "Returns:", "Gradient:", "Raises:", "Examples:", "Reference:"]


def test_every_public_function_has_a_row_and_an_oracle() -> None:
    """`__all__`, the ledger and the oracles name the same functions."""
    assert sorted(FUNCTIONS) == sorted([*(row.name for row in LEDGER), *UPDATES]) == sorted(ORACLES)


def test_all_is_sorted_and_everything_in_it_exists() -> None:
    """`__all__` holds each public name once."""
    assert list(offline_losses.__all__) == sorted(set(offline_losses.__all__))
    assert all(hasattr(offline_losses, name) for name in offline_losses.__all__)


@pytest.mark.parametrize("row", LEDGER, ids=lambda row: row.name)
def test_the_row_names_the_arguments_of_the_signature(row: Row) -> None:
    """In order; a knob is keyword-only, and so is all that is optional."""
    parameters = dict(inspect.signature(row.function).parameters)
    for name in TAIL if row.tail else []:
        assert parameters.pop(name).kind is inspect.Parameter.KEYWORD_ONLY
    assert list(parameters) == list(row.arguments)
    for name, argument in row.arguments.items():
        needed = isinstance(argument, (ledger.Values, ledger.Flags, ledger.Index, ledger.Rows)) and not (
            getattr(argument, "optional", False)
        )
        assert (parameters[name].kind is inspect.Parameter.KEYWORD_ONLY) == (not needed), name


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_suffix_is_the_contract(name: str) -> None:
    """Losses and penalties end in the tail; quantities never have a reduction."""
    parameters = list(inspect.signature(getattr(offline_losses, name)).parameters.values())
    if name.endswith(("_loss", "_losses", "_penalty")):
        assert {p.name: p.default for p in parameters[-4:]} == TAIL
        assert [p.name for p in parameters[-4:]] == list(TAIL)
        of_runs = "" if name in OF_ALL else ", or one for each run"
        assert f"\n    denominator: {DENOMINATOR.format(of_runs)}\n" in (
            inspect.getdoc(getattr(offline_losses, name)) or ""
        )
    else:
        assert not {"reduction", "denominator"} & {p.name for p in parameters}
        assert name.endswith((*QUANTITIES, "_update_")) or name in {
            "softmax_entropy",
            "normalized_score",
            "interquartile_mean",
            "probability_of_improvement",
            "linear_recurrence",
            "reward_scale",
            "sampling_probabilities",
            "observation_statistics",
            "observation_moments",
            "merged_moments",
            "moment_statistics",
            "return_threshold",
            "normalize_observation",
            "ensemble_min",
            "ensemble_mean",
            "ensemble_mix",
            "effective_sample_size",
            "ensemble_subset_min",
            "ensemble_lower_bound",
            "uncertainty_penalized_reward",
            "uniform_log_density",
            "two_hot",
            "hl_gauss",
            "categorical_projection",
            "evidence_lower_bound",
            "flow_point",
            "guided_field",
            "diffusion_point",
            "diffusion_prediction",
            "hindsight_goals",
            "goal_reward",
            "hierarchical_advantages",
            "advantage_indicator",
            "best_of_n",
            "symlog",
            "symexp",
            "signed_hyperbolic",
            "signed_parabolic",
            "smoothed_action",
            "munchausen_reward",
            "advantage_learning_reward",
            "f_conjugate",
            "overestimation_gap",
            "q_gap",
            "clip_fraction",
            "td_error_scale",
            "support_coverage",
        }


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_banned_name(name: str) -> None:
    """No argument has a name that means different things to different people."""
    assert not BANNED & set(inspect.signature(getattr(offline_losses, name)).parameters)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_docstring_has_every_part_in_order(name: str) -> None:
    """A sentence, the formula, shapes, result, gradient, errors, an example that runs, the source."""
    text = inspect.getdoc(getattr(offline_losses, name)) or ""
    places = [text.find(section) for section in SECTIONS]
    assert -1 not in places, dict(zip(SECTIONS, places, strict=True))
    assert places == sorted(places)
    assert ">>> " in text
    arguments = text[places[1] : places[2]]
    for parameter in inspect.signature(getattr(offline_losses, name)).parameters:
        assert f"    {parameter}: " in arguments
