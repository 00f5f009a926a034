"""The kept result of `make lineage` covers every recipe, and is of the claims as they stand; needs no package."""

from __future__ import annotations

from collections import Counter

import pytest
from claims import MODULES, claimed, claims, digest, each, kept, repositories
from lineage import ROWS

KEPT = kept()


@pytest.mark.parametrize("package", MODULES)
def test_every_recipe_of_a_package_is_claimed(package: str) -> None:
    """It runs, or is only read, and says why."""
    run, read = claims(package)
    assert set(run).isdisjoint(read)
    assert set(run) | set(read) == set(claimed(package))
    assert all(read.values())


@pytest.mark.parametrize("package", MODULES)
def test_the_kept_result_is_of_these_claims(package: str) -> None:
    """After a change of a page or of the claims, `make lineage` runs again."""
    rows = [row for row in KEPT if row.package == package]
    assert {row.digest for row in rows} == {digest(package)}, "make lineage"
    found = Counter((row.function, row.ours, row.theirs) for row in rows if row.verdict != "read only")
    assert found == Counter((row.section, row.code, claim.theirs) for row, claim in each(package))
    assert {f"{row.function}: {row.ours}" for row in rows if row.verdict == "read only"} == set(claims(package)[1])


def test_no_claim_is_false() -> None:
    """And each says how large the difference is."""
    known = {"agrees", "differs as documented", "agrees, differs as documented at large inputs"}
    assert {row.verdict for row in KEPT} <= known | {"read only"}
    for row in KEPT:
        if row.verdict == "agrees":
            assert all(size == "none" or float(size) <= 1e-6 for size in row[9:13])


def test_every_recipe_is_of_a_package_or_of_a_repository() -> None:
    """And most repositories are given with a commit."""
    alone = list(repositories())
    assert len(ROWS) == len(alone) + sum(any(map(row.named, MODULES)) for row in ROWS)
    assert sum(commits != "—" for _, commits in alone) > 100
