"""One thread, one seed, and the Hypothesis profile (loaded by importing the strategies)."""

from __future__ import annotations

import pytest
import strategies  # noqa: F401
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--compile-all` generates code for every function, not only the main ones (minutes)."""
    parser.addoption("--compile-all", action="store_true", help="generate code for every compiled function")
