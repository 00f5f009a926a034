"""Which small faults of a room its tests do not notice: `python tests/mutants.py implicit flow`.

A mutant is the module with one operator, number, name or statement changed. The room's identities and the contracts of
its functions are collected once. Each mutant is then put into a fork of that process, where those tests run that reach
the changed function, until one fails; first those that are quick and have noticed most. (mutmut leaves decorated
functions as they are, as all public ones here are, and cosmic-ray starts a process for each mutant, which takes longer
than its tests.)

`mutants.csv` keeps the counts by room. `equivalent_mutants.csv` lists the mutants that no test can notice, each with
its reason; an entry that a test does notice, or that is no mutant any more, is an error.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from datetime import date
from functools import partial
from itertools import takewhile
from pathlib import Path
from types import FrameType, FunctionType, ModuleType
from typing import Any, NamedTuple

import pytest
import strategies  # noqa: F401
from hypothesis import Phase, settings
from mutant_counts import COUNTS, REPORT, code, keep, listed, modules
from mutations import Mutant, mutants

from offline_losses._compile import private

TESTS = Path(__file__).parent
ROOT = TESTS.parent
EQUIVALENT = TESTS / "equivalent_mutants.csv"
CONTRACTS = [TESTS / "contracts" / f"test_{name}.py" for name in ("values", "gradients", "errors", "calls", "knobs")]
PIECES = {
    ("compile",): {"descent", "passes", "projection", "reason", "recorder", "scan", "stops", "switches"},
    ("compile_backend",): {"backend"},
    ("compile_optimizers",): {"optimizers"},
    ("products",): {"card"},
    ("kernels",): {"kernels"},
    ("compile_private",): {"private"},
    ("compile_step", "compile_tracer", "compile_optimizers"): {"step", "tracer", "whole"},
    ("compile_call", "compile_graph", "compile_twin"): {"call", "graph", "twin"},
}
"""Tests of single modules of the compiler."""

INTO_THEM = {"fused": ["warmup"], "update": ["compile_step"]}
"""Tests of the modules through which users come to the compiler."""

BY_OPERATORS = {"call", "graph", "step", "tracer", "twin", "whole"}
"""Those that lead to a graph and from it, which runs operator by operator in place of generated code."""

MAIN = {"expectile_loss", "cql_logsumexp_penalty", "awr_weights", "return_filter", "bellman_target"}
"""Whose contracts stand for those of all where what all rooms share is changed."""

READERS = {
    ("minari", "reading"): {"episodes", "hdf5"},
    ("minari", "formats", "reading"): {"columns", "entries"},
    ("mapped", "files"): {"keeping", "mapped", "sources"},
    ("minari", "files"): {"memory"},
    ("saving",): {"saving", "saving_checks"},
    ("tensordict",): {"keys", "tensordict"},
    ("minari", "mapped", "replay"): {"minari", "replay"},
}
"""Tests of adapters other than those of formats and their files."""

ELSEWHERE = {
    "recurrence": ("returns", "targets"),
    "per_decision": ("importance", "magic"),
    "doubly_robust": ("importance",),
    "_core/blocks": ("importance", "per_decision", "magic"),
    "_core/by_step": ("importance", "per_decision", "doubly_robust", "magic"),
    "_core/checks": ("regression", "filters", "returns", "shards", "uncertainty"),
    "_core/episodes": ("filters", "importance", "sampling"),
    "_core/errors": ("regression", "conservative", "distributional", "filters"),
    "_core/exponential": ("dice", "divergence", "f_divergence", "implicit", "squash", "visits"),
    "_core/pieces": ("filters", "importance", "sampling"),
    "_core/projected": ("projection",),
    "_core/projected_sum": ("projection",),
    "_core/projection": ("projection",),
    "_core/public": (),
    "_core/ranking": ("filters", "shards"),
    "_core/ranks": (),
    "_core/reduce": ("regression", "behavior", "dice", "weights"),
    "_core/root": ("guidance", "diagnostics"),
    "_core/scan": (),
    "_core/sharded": (),
    "_core/spread": (),
    "_core/stops": (),
    "_core/support": ("distributional",),
}
"""Rooms in whose tests those of another stand, in part or all of them; one alone has the contracts for both."""

SEED = 0
LONG = {"adapters": 0.5, "_compile": 8.0}
"""Seconds beyond which a test is left aside: it starts processes, writes large files, or generates code."""

ENOUGH = {"_core": 10.0, "adapters": 10.0, "_compile": 60.0}
"""Seconds of tests after which a mutant of what several rooms share counts as one that no test notices."""

LIMIT = 20.0
"""Seconds of processor time beyond thrice what the tests take, after which a mutant counts as noticed."""


def in_a_fork(work: Callable[[], Any], limit: float) -> Any:
    """What `work` returns in a copy of this process; None where that copy breaks or takes longer than the limit."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reads)
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            signal.setitimer(signal.ITIMER_PROF, limit)  # of this process, however busy the machine
            signal.alarm(int(10 * limit))
            with os.fdopen(writes, "wb") as pipe:
                pickle.dump(work(), pipe)
        finally:
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads, "rb") as pipe:
        result = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(result) if result else None


class Tested(NamedTuple):
    """What a test takes, the lines at which the module's functions begin that it reaches, and whether it passed."""

    seconds: float
    reached: set[int]
    passed: bool


class Run:
    """A plugin of pytest that takes the place of its loop over the tests."""

    def __init__(
        self,
        module: str,
        chosen: Callable[[list[Mutant]], list[Mutant]],
        functions: Container[str],
        longest: float,
        enough: float,
    ) -> None:
        self.module = importlib.import_module(module)
        self.path = Path(str(self.module.__file__))
        self.all = mutants(self.path)
        self.mutants, self.functions = chosen(self.all), functions
        self.longest, self.enough = longest, enough
        self.found: list[tuple[Mutant, str | None]] = []
        """Each mutant, and the test that notices it."""
        self.failed = False

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Of the contracts over all functions, those over some; of a room's identities those that compile nothing."""

        def concerns(item: pytest.Item) -> bool:
            given = getattr(getattr(item, "callspec", None), "params", {})
            if given.get("fused") or getattr(given.get("module"), "__name__", "") == "offline_losses.fused":
                return item.path.parent.name != "rooms"
            rows = [getattr(given[name], "row", given[name]) for name in ("case", "row") if name in given]
            return all(row.name in self.functions for row in rows if hasattr(row, "name"))

        items[:] = [item for item in items if concerns(item)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a failure."""
        self.failed |= report.failed

    def passes(self, item: pytest.Item, following: pytest.Item | None) -> bool:
        """Run one test."""
        self.failed = False
        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        return not self.failed

    def watched(self, item: pytest.Item, following: pytest.Item | None) -> tuple[Tested, set[str]]:
        """Run a test on the module as it is; the modules that it loads come with the result."""
        reached: set[int] = set()

        def watch(frame: FrameType, event: str, _: Any) -> None:
            if event == "call" and frame.f_code.co_filename == str(self.path):
                reached.add(frame.f_code.co_firstlineno)

        start = time.process_time()
        sys.settrace(watch)
        passed = self.passes(item, following)
        sys.settrace(None)
        return Tested(time.process_time() - start, reached, passed), set(sys.modules) - {"__main__"}

    def all_watched(self, items: list[pytest.Item]) -> tuple[list[Tested], set[str]]:
        """Each by itself where those that take long are left aside, so that none takes longer than to find that out."""
        if math.isinf(self.longest):
            found = [self.watched(item, following) for item, following in zip(items, [*items[1:], None], strict=True)]
        else:
            each = [in_a_fork(partial(self.watched, item, None), 2 * self.longest) for item in items]
            found = [one or (Tested(math.inf, set(), True), set()) for one in each]
        return [tested for tested, _ in found], set().union(*(modules for _, modules in found))

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """All mutants, one after the other."""
        items = session.items
        tested, modules = in_a_fork(partial(self.all_watched, items), 3600)
        wrong = [item.nodeid for item, test in zip(items, tested, strict=True) if not test.passed]
        if wrong:
            raise pytest.UsageError(f"fail without any mutant: {wrong}")
        for name in sorted(modules):  # once, and not in each fork
            with suppress(Exception):
                importlib.import_module(name)
        functions = [function for function in gc.get_objects() if type(function) is FunctionType]
        functions = [function for function in functions if function.__code__.co_filename == str(self.path)]
        kills: Counter[int] = Counter()
        for mutant in self.mutants:
            tests = [i for i, test in enumerate(tested) if test.seconds <= self.longest]
            reaching = [i for i in tests if any(line in mutant.lines for line in tested[i].reached)]
            tests = reaching or tests  # a module of constants has nothing to call, and what Dynamo traces is not seen
            tests.sort(key=lambda index: (tested[index].seconds + 0.01) / (kills[index] + 0.1))

            def first_failure(mutant: Mutant = mutant, tests: list[int] = tests) -> int:
                mutant.apply(self.module, functions)
                start = time.process_time()
                within = takewhile(lambda _: time.process_time() < start + self.enough, tests)
                return next((index for index in within if not self.passes(items[index], None)), -1)

            index = in_a_fork(first_failure, LIMIT + 3 * sum(tested[index].seconds for index in tests))
            if index is not None and index >= 0:
                kills[index] += 1
            test = None if index == -1 else "none: it broke or took too long" if index is None else items[index].name
            self.found.append((mutant, test))
            if test is None:
                print(f"{self.path.name}:{mutant.line} {mutant.function}: {mutant.text}", flush=True)
        return True


def tried(
    module: str,
    tests: Iterable[Path],
    *options: str,
    chosen: Callable[[list[Mutant]], list[Mutant]] = list,
    functions: Container[str] = (),
    longest: float = math.inf,
    enough: float = math.inf,
) -> Run | None:
    """Run the chosen mutants of a module against some tests; None where these fail without any."""
    run = Run(module, chosen, functions, longest, enough)
    quiet = ["-p", "no:cacheprovider", "-p", "no:terminal"]
    return run if pytest.main([*quiet, *options, *map(str, tests)], plugins=[run]) == 0 else None


def own_tests(room: str) -> tuple[list[Path], set[str]]:
    """The tests of one room, and the functions whose contracts are among them."""
    match room.split("/"):
        case ["adapters", reader]:
            own = next((own for own, rooms in READERS.items() if reader in rooms), ("formats", "files"))
            return [TESTS / "adapters" / f"test_{name}.py" for name in own], set()
        case ["_compile", piece]:
            own = next(own for own, pieces in PIECES.items() if piece in pieces)
            return [TESTS / f"test_{name}.py" for name in own], set()
        case ["_core", _]:
            rooms = ELSEWHERE.get(room, ("regression", "returns"))
        case [_] if room in INTO_THEM:
            return [TESTS / f"test_{name}.py" for name in INTO_THEM[room]], set()
        case _:
            rooms = (room, *ELSEWHERE.get(room, ()))
    files = [TESTS / "rooms" / f"test_{name}.py" for name in rooms]
    modules = [importlib.import_module(f"offline_losses.{name}") for name in rooms]
    names = {name for module in modules for name, value in vars(module).items() if _belongs(value, module)}
    if room.startswith("_core/"):
        functions = names if len(rooms) == 1 else MAIN
        return [*sorted(TESTS.glob("test_core*.py")), *files, *CONTRACTS[:3]], functions
    return [*files, *CONTRACTS], names


def _belongs(value: object, module: ModuleType) -> bool:
    return getattr(value, "__module__", None) == module.__name__


def report(room: str, sample: int | None, only: str | None) -> bool:
    """Run one room, print its survivors, keep its counts; whether all is as it should be."""

    def chosen(every: list[Mutant]) -> list[Mutant]:
        every = [mutant for mutant in every if only in (None, mutant.function)]
        return every if sample is None or sample >= len(every) else random.Random(SEED).sample(every, sample)

    examples = settings.get_profile("fast").max_examples // (2 if "/" in room else 1)
    phases = [Phase.explicit, Phase.generate]
    settings.register_profile("mutants", settings.get_profile("fast"), phases=phases, max_examples=examples)
    settings.load_profile("mutants")  # a failure is enough, it need not be the smallest
    files, functions = own_tests(room)
    module = f"offline_losses.{room.replace('/', '.')}"
    longest, enough = (limits.get(room.split("/")[0], math.inf) for limits in (LONG, ENOUGH))
    if room.startswith("_compile/"):
        importlib.import_module("torch._inductor.compile_fx")  # once, and not in each fork
    if room.removeprefix("_compile/") in BY_OPERATORS:
        private.COMPILER.compile_fx_inner = lambda graph, _: lambda inputs: graph.forward(*inputs)
        private.UPDATE.compile_fx = lambda graph, *_, **__: graph.forward
    run = tried(module, files, chosen=chosen, functions=functions, longest=longest, enough=enough)
    if run is None:
        return False
    reasons = {(row["function"], row["mutant"]): row["reason"] for row in listed(EQUIVALENT) if row["room"] == room}
    known = [(mutant, test) for mutant, test in run.found if (mutant.function, mutant.text) in reasons]
    survived = sum(test is None for _, test in run.found)
    equivalent = sum(test is None for _, test in known)
    wrong = [mutant for mutant, test in known if test is not None]
    for mutant in wrong:
        print(f"{EQUIVALENT.name}: a test notices {mutant.function}: {mutant.text}")
    counts = [len(run.all), len(run.found), len(run.found) - survived, equivalent, survived - equivalent]
    print(room, *(f"{name} {count}" for name, count in zip(COUNTS[3:], counts, strict=True)), sep=", ")
    if only is None:
        keep(dict(zip(COUNTS, [room, date.today().isoformat(), code(run.path), *map(str, counts)], strict=True)))
    return not wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Test the tests of one room, or of several.")
    parser.add_argument("rooms", nargs="*", help="implicit, adapters/minari; without any, all")
    parser.add_argument("--sample", type=int, help="so many mutants of each, always the same ones")
    parser.add_argument("--function", help="those of one function, without an entry in the report")
    options = parser.parse_args()
    if unknown := set(options.rooms) - set(modules()):
        parser.error(
            f"no such room: {', '.join(sorted(unknown))}; expected modules such as implicit or adapters/minari"
        )
    sys.path[:0] = [str(ROOT), str(TESTS)]
    if len(options.rooms) == 1:
        sys.exit(not report(options.rooms[0], options.sample, options.function))
    drawn = {row["room"]: None if row["tried"] == row["mutants"] else int(row["tried"]) for row in listed(REPORT)}
    every = [room for room, path in modules().items() if mutants(path)]
    rooms = dict.fromkeys(options.rooms, options.sample) or {room: drawn.get(room) for room in every}
    command = [sys.executable, __file__]
    codes = [
        subprocess.run([*command, room, *(["--sample", str(sample)] if sample else [])]).returncode
        for room, sample in rooms.items()
    ]
    sys.exit(any(codes))
