"""What is handed out is whole: the source distribution, the pinned versions, and a README that needs no other file."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info < (3, 11):
    pytest.skip("needs tomllib, of Python 3.11", allow_module_level=True)

import tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def canonical(name: str) -> str:
    """A package's name as indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_source_distribution_has_what_its_tests_read() -> None:
    """Everything in the repository but what only Git reads; the build adds pyproject.toml by itself."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs the repository")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tops = {path.partition("/")[0] for path in listed.splitlines()}
    included = {path.removeprefix("/") for path in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]}
    assert tops - included <= {".gitignore", "pyproject.toml"}


def test_every_package_that_the_tests_need_is_pinned() -> None:
    """What the extras ask for, and what that asks for in turn, as far as it is installed here."""
    pinned = {
        canonical(line.partition("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    }
    extras = PROJECT["project"]["optional-dependencies"]
    asked = [Requirement(text) for texts in (PROJECT["project"]["dependencies"], *extras.values()) for text in texts]
    seen: set[tuple[str, str]] = set()
    while asked:
        requirement = asked.pop()
        for extra in ["", *requirement.extras]:
            key = canonical(requirement.name), extra
            if key not in seen and key[0] != "offline-losses":
                seen.add(key)
                asked += [part for part in needs(requirement.name) if wanted(part, extra)]
    missing = sorted({name for name, _ in seen} - pinned)
    assert not [name for name in missing if not name.startswith(("nvidia-", "cuda-", "triton"))]


def needs(name: str) -> list[Requirement]:
    """What an installed package asks for."""
    try:
        return [Requirement(text) for text in requires(name) or []]
    except PackageNotFoundError:
        return []


def wanted(requirement: Requirement, extra: str) -> bool:
    """Whether an extra asks for it on this machine."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def test_the_readme_reads_on_an_index() -> None:
    """No link there leads to a file, which an index does not have."""
    assert not re.findall(r"\]\((?!https?://)[^)]*\)", (ROOT / "README.md").read_text())
