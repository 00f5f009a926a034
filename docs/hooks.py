"""What the site's build fills into the pages, read from the library, so that a new function needs no entry.

`{{ rooms }}` becomes a table of the rooms with all their functions, `{{ functions }}` a list of the functions with what
each one is, `{{ lineage }}` a table of where each is compared with others, and `{{ room }}`, on the page of a room, its
idea, its pictures and its functions.
"""

from __future__ import annotations

import html
import importlib
import inspect
import json
import posixpath
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority

DOCS = Path(__file__).parent
TESTS = DOCS.parent / "tests"
PATHS = [str(DOCS), str(DOCS / "recipes"), str(TESTS), str(TESTS / "peers")]  # of what the snippets and this import
sys.path[:0] = PATHS

import claims  # noqa: E402
import pictures  # noqa: E402
from aliases import ALIASES  # noqa: E402

torch.set_num_threads(1)  # the tensors of the snippets are small: more threads mostly wait for each other
SENTENCE = 30  # characters of a cell that is too wide for a column on a phone
Room = tuple[str, str, str]  # title, page, name of the module

GALLERY = """```python exec="on" html="on"
from pictures import gallery

print(gallery("{room}"))
```
"""


def on_config(config: Any, **_: Any) -> Any:
    """Put the paths back, which are restored once this file is loaded."""
    sys.path[:0] = [path for path in PATHS if path not in sys.path]
    return config


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Fill in the generated parts of a page."""
    here = posixpath.dirname(page.file.src_uri) or "."
    if "{{ rooms }}" in markdown:
        markdown = markdown.replace("{{ rooms }}", _table_of_rooms(_rooms(config["nav"]), here))
    if "{{ functions }}" in markdown:
        markdown = markdown.replace("{{ functions }}", _table_of_functions(_rooms(config["nav"]), here))
    if "{{ lineage }}" in markdown:
        markdown = markdown.replace("{{ lineage }}", _table_of_lineage(_rooms(config["nav"])))
    if "{{ checked }}" in markdown:
        markdown = markdown.replace("{{ checked }}", _checked())
    if "{{ suites }}" in markdown:
        markdown = markdown.replace("{{ suites }}", _suites())
    return markdown.replace("{{ room }}", _reference(posixpath.basename(page.file.src_uri).removesuffix(".md")))


def on_page_content(content: str, **_: Any) -> str:
    """Let tables of sentences be stacked on a phone, and keep the listings of the source out of the search."""
    listing = '<details class="mkdocstrings-source"'
    content = content.replace(listing, f'{listing} data-search-exclude="listing"')
    return re.sub(r"<table>.*?</table>", _stackable, content, flags=re.DOTALL)


@event_priority(-100)  # after the plugin that writes the index
def on_post_build(*, config: Any, **_: Any) -> None:
    """Add the other words for functions and pages to the index of the search."""
    path = Path(config["site_dir"]) / "search" / "search_index.json"
    index = json.loads(path.read_text())
    left = set(ALIASES)
    for entry in index["docs"]:
        place, _, anchor = entry["location"].partition("#")
        key = anchor.rpartition(".")[2] if anchor.startswith("offline_losses.") else entry["location"]
        if key in ALIASES and place.startswith(("reference/", key)):
            entry["tags"] = ALIASES[key]
            left.discard(key)
    if left:
        raise PluginError(f"aliases of what the site does not have: {', '.join(sorted(left))}")
    path.write_text(json.dumps(index, separators=(",", ":")))


def _stackable(match: re.Match[str]) -> str:
    """Each cell of a table that has sentences gets its column's title, which stands above it where rows are stacked."""
    table = match[0]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", table, re.DOTALL)
    if not any(len(_text(cell)) > SENTENCE for cell in cells):
        return table
    titles = [_text(title) for title in re.findall(r"<th[^>]*>(.*?)</th>", table, re.DOTALL)]
    count = iter(range(len(cells)))
    label = lambda found: f'<td data-label="{html.escape(titles[next(count) % len(titles)])}"{found[1]}>'  # noqa: E731
    return re.sub(r"<td([^>]*)>", label, table).replace("<table>", "<table data-stacked>", 1)


def _text(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", markup)).strip()


def _rooms(nav: list[Any]) -> list[Room]:
    """The reference pages of rooms that have functions, in the order of the navigation."""
    pages = next(section["Reference"] for section in nav if "Reference" in section)
    entries = [next(iter(entry.items())) for entry in pages if isinstance(entry, dict)]
    found = [(title, page, posixpath.basename(page).removesuffix(".md")) for title, page in entries]
    return [room for room in found if room[2] in pictures.ROOMS]


def _table_of_rooms(rooms: list[Room], here: str) -> str:
    rows = ["| room | idea | functions |", "| --- | --- | --- |"]
    for title, page, room in rooms:
        idea = (importlib.import_module(f"offline_losses.{room}").__doc__ or "").partition("\n")[0].rstrip(".")
        names = ", ".join(_link(name, room, page, here) for name in pictures.functions(room))
        rows.append(f"| [{title}]({posixpath.relpath(page, here)}) | {idea} | {names} |")
    return "\n".join(rows)


def _table_of_functions(rooms: list[Room], here: str) -> str:
    rows = {}
    for _, page, room in rooms:
        module = importlib.import_module(f"offline_losses.{room}")
        for name in pictures.functions(room):
            sentence = (inspect.getdoc(getattr(module, name)) or "").partition("\n")[0]
            rows[name] = f"| {_link(name, room, page, here)} | {sentence} |"
    return "\n".join(["| function | what it is |", "| --- | --- |", *(rows[name] for name in sorted(rows))])


def _table_of_lineage(rooms: list[Room]) -> str:
    """Links to the functions on the pages of the rooms, each an anchor too: one page held all of them once."""
    rows = ["| room | functions |", "| --- | --- |"]
    for title, _, room in rooms:
        if not (DOCS / "lineage" / f"{room}.md").exists():  # nobody else has it
            continue
        names = ", ".join(f"[`{name}`]({room}.md#{name}){{ #{name} }}" for name in pictures.functions(room))
        rows.append(f"| [{title}]({room}.md){{ #{room} }} | {names} |")
    return "\n".join(rows)


def _checked() -> str:
    """A table for each package, and one of all that was only read."""
    rows = [row._asdict() for row in claims.kept()]
    packages = dict.fromkeys((row["package"], row["version"], row["date"]) for row in rows)
    parts = []
    for package, version, date in packages:
        parts += [f"## {package} {version}", "", f"Run on {date}.", ""]
        parts += ["| function | theirs | result | values | gradients | values, large | gradients, large |"]
        parts += ["| --- | --- | --- | --- | --- | --- | --- |"]
        for row in rows:
            if row["package"] == package:
                sizes = " | ".join(
                    "—" if row[key] == "none" else row[key]
                    for key in ("value", "gradient", "value_large", "gradient_large")
                )
                theirs = row["theirs"].replace("|", "\\|")
                theirs = theirs if "`" in theirs else f"`{theirs}`"
                result = row["verdict"] + (f": {row['note']}" if row["note"] else "")
                parts.append(f"| [`{row['function']}`]({row['page']}.md) | {theirs} | {result} | {sizes} |")
        parts.append("")
    parts += ["## Repositories without a package", "", "| function | implementation | commit | place |"]
    parts += ["| --- | --- | --- | --- |"]
    for row, commits in claims.repositories():
        cells = f"[`{row.section}`]({row.page}.md)", _plain(row.implementation), commits, _plain(row.place)
        parts.append(f"| {' | '.join(cells)} |")
    return "\n".join(parts)


def _suites() -> str:
    """How many cases there are, and of which suites, the largest first."""
    sources = [vector["source"] for vector in json.loads((TESTS / "peers" / "vectors.json").read_text())]
    counts = Counter(source.partition(",")[0].rpartition(" ")[0] for source in sources)
    return f"{len(sources)} cases, of " + ", ".join(f"{name} ({count})" for name, count in counts.most_common())


def _plain(cell: str) -> str:
    """Without the links, which are relative to another page."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", cell)


def _reference(room: str) -> str:
    """The idea, the pictures, the functions in the order of the source, and the types that they return."""
    if room not in pictures.ROOMS:
        return ""
    module = importlib.import_module(f"offline_losses.{room}")
    names = dict.fromkeys([*pictures.functions(room), *pictures.public(room)])
    entries = [f"::: {module.__name__}.{name}" for name in names]
    return "\n\n".join([inspect.getdoc(module) or "", GALLERY.format(room=room), *entries])


def _link(name: str, room: str, page: str, here: str) -> str:
    return f"[`{name}`]({posixpath.relpath(page, here)}#offline_losses.{room}.{name})"
