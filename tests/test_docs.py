"""What the documents say is true: snippets run, functions and rooms are all named, links resolve."""

from __future__ import annotations

import csv
import re
import sys
import warnings
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import NamedTuple

import pytest

import offline_losses
from offline_losses._compile import backend, private

ROOT = Path(__file__).parent.parent
SITE = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *SITE]
FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([^\n`]*)\n(.*?)^\1\2[ \t]*$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of a page: what stands behind its fence, and what it holds."""

    page: Path
    info: str
    code: str

    @property
    def built(self) -> bool:
        """Whether the site's build runs it, and fails where it does."""
        return self.page in SITE and re.match(r'python .*\bexec="on"', self.info) is not None

    @property
    def escapes(self) -> bool:
        """Whether it is Python by a name under which nothing runs it."""
        return not self.built and self.info != "python" and re.match(r"\W*i?py", self.info) is not None


BLOCKS = [
    Block(page, info.strip(), dedent(code)) for page in PAGES for _, _, info, code in FENCE.findall(page.read_text())
]
LOOP = ROOT / "docs" / "concepts" / "training-loop.md"
"""A page whose blocks continue each other."""

SNIPPETS = [
    pytest.param(block.code, id=f"{block.page.relative_to(ROOT)}-{index}")
    for index, block in enumerate(block for block in BLOCKS if block.info == "python" and block.page != LOOP)
]


def text(page: Path) -> str:
    """What a page says outside of code and formulas."""
    return re.sub(r"(`+)[^`]+\1|\${1,2}[^$\n]+\${1,2}", "", FENCE.sub("", page.read_text()))


@pytest.mark.parametrize("code", SNIPPETS)
def test_every_snippet_runs_as_printed(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each Python block that the site's build does not run is a program of its own."""
    module = ModuleType("snippet")
    monkeypatch.setitem(sys.modules, "snippet", module)
    exec(compile(code, "snippet", "exec"), vars(module))


@pytest.mark.skipif(private.BACKWARD.missing() is not None, reason="no update is whole")
def test_every_habit_of_a_training_loop_is_compiled_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The page's snippets, in a row, as one program that is warned of nothing; the graphs run operator by operator."""
    monkeypatch.setattr(backend, "compile_graph", lambda graph, inputs: graph.forward)
    code = "\n".join(block.code for block in BLOCKS if block.page == LOOP)
    module = ModuleType("training_loop")
    monkeypatch.setitem(sys.modules, "training_loop", module)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile_update")
        exec(compile(code, str(tmp_path / "training_loop.py"), "exec"), vars(module))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_snippet_escapes(page: Path) -> None:
    """No fence stands open or in a quotation, and Python is called Python, or nothing would run it."""
    assert not re.findall(r"^[ \t>*+.\d-]*(?:```|~~~).*", FENCE.sub("", page.read_text()), re.MULTILINE)
    assert not [block.info for block in BLOCKS if block.page == page and block.escapes]


def test_the_iql_update_of_the_readme_is_about_twenty_lines_and_learns() -> None:
    """It is short, and repeated on one batch it lowers its loss."""
    code = next(param.values[0] for param in SNIPPETS if "def update" in str(param.values[0]))
    body = code[code.index("def update") : code.index("batch = ")].strip().splitlines()
    assert len(body) <= 20
    space: dict[str, object] = {}
    exec(compile(code, "snippet", "exec"), space)
    torch, update = space["torch"], space["update"]
    torch.manual_seed(0)
    batch = [torch.randn(64, 17), torch.randn(64, 6), torch.randn(64), torch.randn(64, 17), torch.zeros(64).bool()]
    losses = [float(update(*batch)) for _ in range(200)]
    assert sum(losses[-10:]) < sum(losses[:10])


def test_every_function_stands_in_the_readme_and_the_changelog() -> None:
    """By name."""
    for page in ("README.md", "CHANGELOG.md"):
        text = (ROOT / page).read_text()
        functions = [name for name in offline_losses.__all__ if name.islower()]
        assert not [name for name in functions if f"`{name}`" not in text], page


def test_the_readme_tells_what_ran_with_which_versions() -> None:
    """What `make matrix` has kept."""
    with (ROOT / "tests" / "matrix.csv").open(newline="") as file:
        kept = list(csv.DictReader(file))
    told = re.findall(r"^\| ((?:\d+\.)+\d+ \| 3\.\d+ \|.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert told == [" | ".join(row.values()) for row in kept]


def test_every_room_has_a_reference_page_in_the_navigation() -> None:
    """One page for each module that defines public functions."""
    navigation = (ROOT / "mkdocs.yml").read_text()
    for name in offline_losses.__all__:
        module = getattr(offline_losses, name).__module__
        page = f"reference/{module.removeprefix('offline_losses.')}.md"
        assert page in navigation
        assert re.search(rf"^(\{{{{ room \}}}}|::: {module})$", (ROOT / "docs" / page).read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    """Every link to a file of this project leads to one; what it names on a page is checked on the built site."""
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", text(page)):
        assert (page.parent / target).exists(), target


def test_docstrings_point_at_lineage_only_where_it_speaks() -> None:
    """A function that says "see Lineage" is on the page of its room, and that page is the one it names."""
    for name in offline_losses.__all__:
        room = getattr(offline_losses, name).__module__.removeprefix("offline_losses.")
        for page in re.findall(r"\(\.\./lineage/(\S+?)\)", getattr(offline_losses, name).__doc__ or ""):
            assert page == f"{room}.md#{name}"
            assert f"`{name}`" in (ROOT / "docs" / "lineage" / f"{room}.md").read_text(), name
