"""One thread, one seed, and the Hypothesis profile (loaded by importing the strategies)."""

from __future__ import annotations

import os

import pytest
import strategies  # noqa: F401
import torch

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # in the processes that tests start: beside other workers, threads mostly wait


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--compile-all` generates code for every function, not only the main ones, and for every dtype (minutes)."""
    parser.addoption("--compile-all", action="store_true", help="generate code for every compiled function")


def pytest_configure(config: pytest.Config) -> None:
    """What is too long for every run says so; it runs too where tests are chosen with `-k`."""
    config.addinivalue_line("markers", "thorough: one more of a kind that is compiled; runs with --compile-all")
    if config.option.keyword:  # few tests were asked for, so that there is time
        config.option.compile_all = True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out one more of a kind, and keep on one worker what shares something that takes long to make."""
    if not config.getoption("--compile-all"):
        config.hook.pytest_deselected(items=[item for item in items if is_left_out(item)])
        items[:] = [item for item in items if not is_left_out(item)]
    for item in items if config.pluginmanager.hasplugin("xdist") else []:
        if shared := made_for(item):
            item.add_marker(pytest.mark.xdist_group(shared))


def is_left_out(item: pytest.Item) -> bool:
    """One more of a kind, or an example of a fused function: the check of the installed package runs those."""
    twins_example = isinstance(item, pytest.DoctestItem) and item.path.parent.name == "fused"
    return twins_example or item.get_closest_marker("thorough") is not None


def made_for(item: pytest.Item) -> str:
    """What a test needs made: the site, what several processes found, or the compiled graphs of a function."""
    if item.path.stem in ("test_site", "test_processes"):
        return item.path.stem
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    row = getattr(parameters.get("case"), "row", None) or parameters.get("row")
    return getattr(row, "name", "")
