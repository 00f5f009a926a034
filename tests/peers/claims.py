"""What the lineage pages claim of a release, one claim for each recipe, and the check of ours against theirs."""

from __future__ import annotations

import csv
import hashlib
import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lineage import PACKAGES, ROWS, Row, names
from torch import Tensor

KEPT = Path(__file__).parents[2] / "docs" / "lineage" / "checked.csv"
MODULES = {"rlax": "rlax", "TorchRL": "torchrl", "d3rlpy": "d3rlpy", "tianshou": "tianshou", "TRL": "trl"}
MODULES |= {"obp": "obp", "scope-rl": "scope_rl"}
SEEDS, LARGE, TOLERANCE = 3, 100.0, 1e-6
Evaluate = Callable[[str, Mapping[str, Any], Mapping[str, Tensor], Tensor], tuple[Tensor, dict[str, Tensor] | None]]


class Claim(NamedTuple):
    """Their expression of the same letters, and where it is known to differ."""

    theirs: str
    draw: str = ""
    """Statements run on the letters before either side reads them."""
    let: str = ""
    """Statements that make the letters of our recipe out of the others, seen by the derivative."""
    by: str | None = None
    """The letters to differentiate by; without it all that are tensors of numbers on both sides."""
    turn: str = "ours"
    """What is compared of our recipe's result, where theirs is less: its mean, or an element."""
    differs: str = ""
    """What the page says of a difference at ordinary inputs."""
    large: str = ""
    """What it says of one at inputs a hundred times as large."""


Claims = dict[str, Claim | str | list[Claim | str]]


class Checked(NamedTuple):
    """A row of the kept result."""

    package: str
    version: str
    date: str
    digest: str
    page: str
    function: str
    ours: str
    theirs: str
    verdict: str
    value: str
    gradient: str
    value_large: str
    gradient_large: str
    note: str


def claims(package: str) -> tuple[Claims, dict[str, str]]:
    """What is checked of a package, and what is only read, with the reason; does not import it."""
    module = importlib.import_module(f"{MODULES[package]}_claims")
    return module.CLAIMS, module.READ


def digest(package: str) -> str:
    """Of the file of claims, however it is laid out."""
    text = (Path(__file__).parent / f"{MODULES[package]}_claims.py").read_text()
    return hashlib.sha256(re.sub(r"[\s,()]", "", text).encode()).hexdigest()[:12]


def claimed(package: str) -> dict[str, Row]:
    """Each recipe that the pages give for a package, by function and code."""
    return {f"{row.section}: {row.code}": row for row in ROWS if row.named(package)}


def each(package: str) -> Iterator[tuple[Row, Claim]]:
    """The claims one by one, with their rows."""
    found = claimed(package)
    for key, entry in claims(package)[0].items():
        for claim in entry if isinstance(entry, list) else [entry]:
            yield found[key], Claim(claim) if isinstance(claim, str) else claim


def kept() -> list[Checked]:
    """The kept result."""
    with KEPT.open(newline="") as file:
        return [Checked(**row) for row in csv.DictReader(file)]


def keep(package: str, results: list[Checked]) -> None:
    """Put the results of one package in the place of its last ones."""
    others = [row for row in kept() if row.package != package] if KEPT.exists() else []
    with KEPT.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Checked._fields)
        writer.writerows(sorted([*others, *results], key=lambda row: list(MODULES).index(row.package)))


def repositories() -> Iterator[tuple[Row, str]]:
    """The recipes of those that have no package here, with the commits at which their lines were read."""
    index = (KEPT.parent / "index.md").read_text().replace("\n", " ")
    for row in ROWS:
        if not any(map(row.named, PACKAGES)):
            names = [re.split(r":| \(", name)[0].strip() for name in row.implementation.split(",")]
            found = [re.search(rf"\b{re.escape(name)}(?: \([^)]*\))?(?: \|)? `(\w{{7}})`", index) for name in names]
            yield row, ", ".join(dict.fromkeys(f"`{match[1]}`" for match in found if match)) or "—"


def check(row: Row, claim: Claim, evaluate: Evaluate) -> tuple[str, list[str], str]:
    """The verdict, the largest differences of values and gradients, at inputs of ordinary size and large, a note."""
    worst = {(part, scale): -1.0 for scale in (1.0, LARGE) for part in ("value", "gradient")}
    for scale in (1.0, LARGE):
        for seed in range(SEEDS):
            for part, size in differences(row, claim, evaluate, seed, scale).items():
                worst[part, scale] = max(worst[part, scale], size)
    size = {scale: max(worst["value", scale], worst["gradient", scale]) for scale in (1.0, LARGE)}
    wrong = size[1.0] > TOLERANCE, size[LARGE] > TOLERANCE
    if wrong == (False, False) and not (claim.differs or claim.large):
        verdict = "agrees"
    elif wrong[0] == bool(claim.differs) and (claim.differs or wrong[1] == bool(claim.large)):
        verdict = "differs as documented" if claim.differs else "agrees, differs as documented at large inputs"
    else:
        verdict = "DISAGREES" if any(wrong) else "AGREES, THOUGH DOCUMENTED AS DIFFERENT"
    return verdict, ["none" if x < 0 else f"{x:.0e}" for x in worst.values()], claim.differs or claim.large


def differences(row: Row, claim: Claim, evaluate: Evaluate, seed: int, scale: float) -> dict[str, float]:
    """Of values and gradients, relative to the largest of theirs; infinite where one alone is finite."""
    letters = names(row.page, row.section, row.code, seed=seed, scale=scale)
    exec(claim.draw, letters)
    used = re.findall(r"\w+", claim.theirs if claim.by is None else claim.by)
    mine = set(re.findall(r"\w+", f"{row.code} {claim.let}"))
    moved = {
        name: letters[name].clone().requires_grad_()
        for name in dict.fromkeys(used)
        if name in mine and isinstance(letters.get(name), Tensor) and letters[name].is_floating_point()
    }
    own = {**letters, **moved}
    exec(claim.let, own)
    ours = eval(claim.turn, {**own, "ours": eval(row.code, own)})
    cotangent = torch.randn(ours.shape)
    theirs, slopes = evaluate(claim.theirs, letters, moved, cotangent)
    found = {"value": apart(ours.detach(), theirs)}
    if slopes is not None:
        if not ours.requires_grad:
            return {**found, "gradient": max(apart(torch.zeros_like(slope), slope) for slope in slopes.values())}
        grads = torch.autograd.grad(ours, list(moved.values()), cotangent, allow_unused=True, materialize_grads=True)
        found["gradient"] = max(apart(grad, slopes[name]) for name, grad in zip(moved, grads, strict=True))
    return found


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference relative to the largest number of theirs."""
    if ours.shape != theirs.shape:
        raise ValueError(f"ours is {tuple(ours.shape)}, theirs {tuple(theirs.shape)}")
    ours, theirs = ours.double(), theirs.double()
    if bool((ours.isfinite() != theirs.isfinite()).any()):
        return float("inf")
    same = (ours == theirs) | ~ours.isfinite()
    gap = torch.where(same, 0.0, (ours - theirs).abs())
    size = torch.where(theirs.isfinite(), theirs.abs(), 0.0)
    return float(gap.max() / size.max().clamp(min=1e-3)) if gap.numel() else 0.0


def with_torch(space: Mapping[str, Any]) -> Evaluate:
    """Their expression in PyTorch."""

    def evaluate(
        theirs: str, letters: Mapping[str, Any], moved: Mapping[str, Tensor], cotangent: Tensor
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        result = torch.as_tensor(eval(theirs, {**letters, **space, **moved}))
        if not (result.requires_grad and moved):
            return result, None
        slopes = torch.autograd.grad(
            result, list(moved.values()), cotangent.reshape(result.shape), allow_unused=True, materialize_grads=True
        )
        return result.detach(), dict(zip(moved, slopes, strict=True))

    return evaluate
