"""The test of the tests finds what is not tested, and its lists are those of the modules as they are."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import mutants
import pytest
from test_architecture import PACKAGE

TOY = '''
"""A module."""
from functools import wraps

HALF = 0.5

def public(function):
    @wraps(function)
    def call(*args, **kwargs):
        return function(*args, **kwargs)
    return call

@public
def positive(x, *, scale=2):
    """The positive part."""
    if x < 0:
        return 0
    return scale * x

def halved(x):
    return HALF * x
'''
TESTS = """
from toy_room import halved, positive

def test_positive():
    assert positive(3) == 6 and positive(0.5) == 1 and positive(-1) == 0

def test_halved():
    assert halved(2) == 1
"""


@pytest.fixture(autouse=True)
def _options_of_the_inner_run_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)


def test_a_known_survivor_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fault of a small module is noticed, but the one that makes no difference; the module stays as it is."""
    (tmp_path / "toy_room.py").write_text(TOY)
    (tmp_path / "test_toy.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = mutants.tried("toy_room", [tmp_path / "test_toy.py"], "-c", str(tmp_path / "pytest.ini"))
    assert run is not None
    assert {mutant.text for mutant, test in run.found if test is None} == {"if x <= 0:"}
    noticed = {(mutant.function, mutant.text): test for mutant, test in run.found if test is not None}
    assert noticed["positive", "scale = 3"] == "test_positive"
    assert noticed["HALF", "HALF = 0.25"] == "test_halved"
    assert sys.modules["toy_room"].positive(3) == 6


def test_a_room_whose_tests_fail_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant that fails a test tells nothing where the module fails it too."""
    (tmp_path / "toy_wrong.py").write_text(TOY)
    (tmp_path / "test_toy_wrong.py").write_text("import toy_wrong\ndef test():\n    assert toy_wrong.halved(2) == 2\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    monkeypatch.syspath_prepend(tmp_path)
    options = "-c", str(tmp_path / "pytest.ini")
    assert mutants.tried("toy_wrong", [tmp_path / "test_toy_wrong.py"], *options) is None


def test_every_equivalent_mutant_is_a_mutant() -> None:
    """None is listed whose statement has changed since, and each has its reason."""
    texts = defaultdict(set)
    for row in mutants.listed(mutants.EQUIVALENT):
        texts[row["room"]].add((row["function"], row["mutant"]))
        assert row["reason"], row
    for room, known in texts.items():
        every = mutants.mutants(PACKAGE / f"{room}.py", {name for name, _ in known})
        assert known <= {(mutant.function, mutant.text) for mutant in every}


def test_every_room_is_tested_enough() -> None:
    """Of the mutants that are none of the equivalent ones, 95 % and more are noticed."""
    for row in mutants.listed(mutants.REPORT):
        tried, equivalent = int(row["tried"]), int(row["equivalent"])
        assert int(row["killed"]) >= 0.95 * (tried - equivalent), row["room"]
