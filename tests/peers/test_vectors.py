"""Numbers that other libraries' own suites expect, of our functions, eager and fused; needs no package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import offline_losses
from offline_losses import fused

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())


def number(x: Any) -> Any:
    """A list of floats or flags as a tensor, anything else as it is."""
    return torch.tensor(x) if isinstance(x, list) else x


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['source']}: {vector['ours'][:30]}")
def test_the_numbers_of_their_suites(vector: dict[str, Any]) -> None:
    """Up to the tolerance of their test."""
    letters = {name: number(x) for name, x in vector["given"].items()}
    for functions in (offline_losses, fused) if vector.get("fused") else (offline_losses,):
        found = eval(vector["ours"], {**vars(functions), "torch": torch, **letters})
        torch.testing.assert_close(
            found, torch.tensor(vector["expected"]), rtol=vector["tolerance"], atol=vector["tolerance"]
        )
