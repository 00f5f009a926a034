"""Numbers that other libraries' own suites expect, of our functions, eager and fused; needs no package.

A vector holds our expression of what their test computes and the letters that it reads. With `gradient` the numbers are
those of the derivative by that letter; with `fused` the fused functions give them too.
"""

from __future__ import annotations

import json
import re
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
    """Up to a relative and absolute error of the size of their test's tolerance."""
    letters = {name: number(x) for name, x in vector["given"].items()}
    for functions in (offline_losses, fused) if vector.get("fused") else (offline_losses,):
        if "gradient" in vector:
            letters[vector["gradient"]] = number(vector["given"][vector["gradient"]]).requires_grad_()
        found = eval(vector["ours"], {**vars(functions), "torch": torch, **letters})
        if "gradient" in vector:
            (found,) = torch.autograd.grad(found, letters[vector["gradient"]])
        torch.testing.assert_close(
            found, torch.tensor(vector["expected"]), rtol=vector["tolerance"], atol=vector["tolerance"]
        )


def test_every_number_says_of_which_test_of_which_version_it_is() -> None:
    """And is asked once."""
    for vector in VECTORS:
        assert re.match(r"[\w -]+ (\d+\.\d+\.\d+|[0-9a-f]{7}), \w", vector["source"]), vector["source"]
    cases = [vector["source"] for vector in VECTORS]
    assert sorted(cases) == sorted(set(cases))
