"""The test of the tests finds what is not tested, and its lists are those of the modules as they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import mutant_counts
import mutants
import pytest
from mutant_counts import REPORT, as_page, code, keep, listed, modules, rate
from test_architecture import PACKAGE

TOY = '''
"""A module."""
from functools import wraps

HALF = 0.5
THIRD = 3

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
from toy_room import THIRD, halved, positive

def test_positive():
    assert positive(3) == 6 and positive(0.5) == 1 and positive(-1) == 0

def test_halved():
    assert halved(2) == 1

def test_third():
    assert THIRD * halved(2.0) == 3
"""


PROGRAM = """
import json, mutants, sys
folder, module = sys.argv[1:]
run = mutants.tried(module, [f"{folder}/test_{module}.py"], "-c", f"{folder}/pytest.ini")
found = None if run is None else [(mutant.function, mutant.text, test) for mutant, test in run.found]
print(json.dumps([found, sys.modules[module].positive(3)]))
"""


def tried(folder: Path, tests: str) -> tuple[list[tuple[str, str, str | None]] | None, int]:
    """What these tests notice of the toy, and what it computes afterwards: in a process of its own, which forks."""
    (folder / "toy_room.py").write_text(TOY)
    (folder / "test_toy_room.py").write_text(tests)
    (folder / "pytest.ini").write_text("[pytest]\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(mutants.TESTS), str(mutants.ROOT)])
    command = [sys.executable, "-c", PROGRAM, str(folder), "toy_room"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300).stdout
    found, after = json.loads(said.splitlines()[-1])
    return found, after


def test_a_known_survivor_is_found(tmp_path: Path) -> None:
    """Each fault of a small module is noticed, but the one that makes no difference; the module stays as it is."""
    found, after = tried(tmp_path, TESTS)
    assert found is not None
    assert {text for _, text, test in found if test is None} == {"if x <= 0:"}
    noticed = {(function, text): test for function, text, test in found if test is not None}
    assert noticed["positive", "scale = 3"] == "test_positive"
    assert noticed["HALF", "HALF = 0.25"] in ("test_halved", "test_third")
    assert noticed["THIRD", "THIRD = 4"] == "test_third"  # where it was imported before it was changed
    assert after == 6


def test_a_room_whose_tests_fail_is_not_tried(tmp_path: Path) -> None:
    """A mutant that fails a test tells nothing where the module fails it too."""
    found, _ = tried(tmp_path, "import toy_room\ndef test():\n    assert toy_room.halved(2) == 2\n")
    assert found is None


def test_every_equivalent_mutant_is_a_mutant() -> None:
    """None is listed whose statement has changed since, and each has its reason."""
    texts = defaultdict(set)
    for row in listed(mutants.EQUIVALENT):
        texts[row["room"]].add((row["function"], row["mutant"]))
        assert row["reason"], row
    for room, known in texts.items():
        every = mutants.mutants(modules()[room], {name for name, _ in known})
        assert known <= {(mutant.function, mutant.text) for mutant in every}


def test_every_room_is_tested_enough() -> None:
    """Of the mutants that are none of the equivalent ones, 95 % and more are noticed."""
    for row in listed(REPORT):
        assert int(row["killed"]) + int(row["equivalent"]) + int(row["survived"]) == int(row["tried"]), row["room"]
        assert rate(row) >= 0.95, row["room"]


def test_a_module_that_has_changed_is_marked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On the page, until it is run again."""
    row = {"room": "bandit", "date": "2026-11-30", "mutants": "8", "tried": "4", "killed": "3", "equivalent": "0"}
    monkeypatch.setattr(mutant_counts, "REPORT", tmp_path / "mutants.csv")
    mutant_counts.REPORT.write_text(",".join(mutant_counts.COUNTS) + "\n")
    for state in ("another", code(modules()["bandit"])):
        keep({**row, "code": state, "survived": "1"})
        assert f"| bandit | 4 drawn of 8 | 3 | 0 | 75.0%{'' if state != 'another' else chr(92) + '*'} |" in as_page()


def test_every_module_has_been_run() -> None:
    """All of the library that a fault can be put into."""
    rooms = [row["room"] for row in listed(REPORT)]
    assert len(set(rooms)) == len(rooms)
    assert all(not mutants.mutants(path) for room, path in modules().items() if room not in rooms)
    assert set(rooms) <= set(modules())


def test_every_piece_of_the_compiler_has_its_tests() -> None:
    """One list of files for each module."""
    pieces = [piece for each in mutants.PIECES.values() for piece in each]
    assert sorted(pieces) == sorted(path.stem for path in (PACKAGE / "_compile").glob("[!_]*.py"))
