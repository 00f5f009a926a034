"""The house: imports go down, rooms stay small, and importing the library loads torch and nothing heavier."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import offline_losses

PACKAGE = Path(offline_losses.__file__).parent
TIERS = {
    "_core": 0,
    "regression": 1,
    "entropic": 1,
    "implicit": 1,
    "distributional": 1,
    "recurrence": 1,
    "ensemble": 1,
    "density": 1,
    "squash": 1,
    "smoothing": 1,
    "divergence": 1,
    "ends": 1,
    "uncertainty": 1,
    "importance": 1,
    "intervals": 1,
    "ratios": 1,
    "diagnostics": 1,
    "projection": 1,
    "f_divergence": 1,
    "returns": 2,
    "per_decision": 2,
    "bandit": 2,
    "reporting": 2,
    "chunks": 2,
    "relabel": 2,
    "corrections": 2,
    "filters": 2,
    "sampling": 2,
    "targets": 2,
    "weights": 2,
    "extraction": 2,
    "visits": 2,
    "dice": 3,
    "shards": 3,
    "conservative": 3,
    "policy": 3,
    "behavior": 3,
    "discrete": 3,
    "out_of_distribution": 3,
    "vtrace": 3,
    "support": 3,
    "distance": 3,
    "flow": 3,
    "value_flow": 3,
    "diffusion": 3,
    "guidance": 3,
    "goal": 3,
    "reachability": 3,
    "language": 3,
    "sequence": 3,
    "doubly_robust": 3,
    "magic": 4,
    "_compile": 4,
    "update": 5,
    "fused": 6,
    "adapters": 6,
    "__init__": 6,
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """The room that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The modules of this package that a file imports, as dotted paths below it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where it goes"
            names = [node.module or ""]
        found |= {name.removeprefix("offline_losses.") for name in names if name.startswith("offline_losses.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_to_a_lower_tier(path: Path) -> None:
    """Never sideways, so that there can be no circle; inside a folder its own files may know each other."""
    here = room(path)
    for module in imported(path):
        there = module.split(".")[0]
        assert TIERS[there] < TIERS[here] or (there == here and path.parent != PACKAGE) or here == "__init__", module


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_is_small_and_says_what_it_is(path: Path) -> None:
    """At most 280 lines with all their documentation, and a docstring for the idea; the list of names is no room."""
    source = path.read_text()
    assert len(source.splitlines()) <= 280 or path == PACKAGE / "__init__.py"
    assert ast.get_docstring(ast.parse(source))


def test_nothing_in_the_core_imports_the_adapters() -> None:
    """The containers stay at the border."""
    for path in MODULES:
        if room(path) != "adapters":
            assert not any(module.startswith("adapters") for module in imported(path)), path


def modules_after(statement: str) -> set[str]:
    """What a fresh interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_library_loads_torch_alone() -> None:
    """Neither containers, nor the compiler, nor any third package beyond torch's own."""
    before, after = modules_after("import torch"), modules_after("import offline_losses")
    new = {name.split(".")[0] for name in after - before}
    assert new == {"offline_losses"}
    assert not {name for name in after if name.startswith(("tensordict", "minari", "torch._dynamo", "gymnasium"))}


def test_the_import_test_can_fail() -> None:
    """The same look at an interpreter that has loaded the compiler finds it."""
    assert "torch._dynamo" in modules_after("import torch._dynamo")
