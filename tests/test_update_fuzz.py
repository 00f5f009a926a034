"""`compile_update` against the same update run as it is, over random updates and random changes between calls.

`HYPOTHESIS_PROFILE=thorough` runs two thousand programs (hours), the default a few.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from programs import Program, first_difference, programs

from offline_losses import compile_update
from offline_losses._compile import backend
from offline_losses._compile.switches import switched_off

THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
PROGRAMS = 2000 if THOROUGH else 12

pytestmark = pytest.mark.skipif(switched_off() is not None, reason="the compiler is switched off")


@pytest.fixture(scope="module", autouse=True)
def _operator_by_operator() -> Iterator[None]:
    """In place of generated code the graph itself, which takes a program from a minute to seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "compile_graph", lambda graph, inputs: graph.forward)
        yield


def difference(program: Program, wrap: Callable[..., Any] = compile_update) -> tuple[str | None, list[str]]:
    """Where compiled and plain run depart, if they do, and what was said."""
    torch._dynamo.reset()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = first_difference(program, wrap)
    return found, [str(w.message) for w in caught if "compile_update" in str(w.message)]


def test_no_random_program_is_different() -> None:
    """Parameters, buffers, optimizer state, Python state, random state and results agree after every call."""
    outcomes: Counter[str] = Counter()

    @settings(max_examples=PROGRAMS, deadline=None, derandomize=not THOROUGH, suppress_health_check=list(HealthCheck))
    @given(program=programs())
    def check(program: Program) -> None:
        found, said = difference(program)
        if found is not None and "RuntimeError" in found and not said:
            outcomes["refused"] += 1  # it adds to gradients that were not kept, and is told so
            return
        assert found is None, f"{program}: {found}; said {said}"
        outcomes["in parts or eagerly" if said else "whole"] += 1

    check()
    print(dict(outcomes))
    if THOROUGH:
        assert outcomes["whole"] >= PROGRAMS / 2
        assert outcomes["refused"] <= PROGRAMS / 100


@pytest.mark.parametrize(
    "program",
    [
        Program({"metrics": "rate", "counter": "nested"}),  # reading the groups marks parameters as static
        Program({"schedule": "by hand inside", "metrics": "rate"}),  # writing into a group sets `capturable`
        Program({"schedule": "outside", "optimizer": "Adam"}),  # OneCycleLR also moves the momentum
        Program({"schedule": "inside", "clearing": "module", "stepping": "first only"}),  # a shared None
        Program({"clearing": "before"}, {3: "assign network"}),  # a parameter that the optimizer does not hold
        Program({"clearing": "after"}, {4: "gradient left"}),
        Program({"stepping": "every second", "counter": "attribute"}),
        Program({"stepping": "every second", "clearing": "module"}, {8: "freeze"}),  # no optimizer ever steps
        Program({"clearing": "module"}, {2: "other parameter"}),  # an orphan keeps its gradient
        Program({"network": "two heads"}, {5: "switch"}),  # a head without a gradient until then
        Program({"network": "batch norm", "metrics": "item"}, {3: "evaluation", 6: "evaluation"}),
        Program({}, {3: "parameter hook", 5: "hook", 7: "step hook"}),
        Program({"batch": "numpy replay", "noise": "python"}),
        Program({"precision": "scaler"}, {4: "learning rate"}),
        Program({"optimizer": "RAdam"}, {2: "momentum reset", 6: "load optimizer"}),
        Program({"optimizer": "custom"}, {4: "other optimizer"}),  # what it counts is noted and never done
        Program({"counter": "optimizer"}, {8: "switch"}),
    ],
    ids=str,
)
def test_programs_that_went_wrong_once(program: Program) -> None:
    """Each of these trained something else with some version of PyTorch or of this library."""
    assert difference(program)[0] is None


def test_a_call_that_does_nothing_is_noticed() -> None:
    """The comparison bites: a wrapper that leaves out every fifth call differs in nearly every program."""

    def skipping(update: Callable[..., Any]) -> Callable[..., Any]:
        calls = [0]

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            return None if calls[0] % 5 == 0 else update(*args, **kwargs)

        return wrapped

    noticed: list[bool] = []

    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(program=programs())
    def check(program: Program) -> None:
        noticed.append(difference(program, skipping)[0] is not None)

    check()
    assert sum(noticed) >= 0.95 * len(noticed)
