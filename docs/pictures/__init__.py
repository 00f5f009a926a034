"""The figures of the site: one style, drawn with the library itself while the site is built.

`new` makes axes and `print(show(figure, caption))` puts them into the page as inline SVG, whose lines and letters take
the color of the page's text: they are legible on light and on dark. Beside this file stands one module for each room,
in which the function that draws `offline_losses.x` is called `x`; `gallery` puts all of a room's side by side.
"""

from __future__ import annotations

import html
import importlib.util
import io
import re
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import offline_losses

# Colors that remain apart for the color-blind and stand out from white and from dark slate.
BLUE, ORANGE, GREEN, PURPLE, SKY = "#0f7fbf", "#d9730d", "#0a9b72", "#b96d9d", "#4aa8d8"
INK = "#010203"  # written into the page as the color of its text
SOFT = "#808080"
REMEDIES = {
    "clone everything": SOFT,
    "imitate the best": SKY,
    "stay in the sample": BLUE,
    "push back": GREEN,
    "stay near the data": PURPLE,
    "doubt": PURPLE,
    "nothing": ORANGE,
}
"""The color of what an algorithm does about the maximum over actions; which does what stands in the recipes."""

STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, PURPLE, SKY]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 9,
    "axes.linewidth": 0.7,
    "figure.dpi": 72,
    "font.size": 8,
    "legend.frameon": False,
    "legend.borderpad": 0.1,
    "legend.columnspacing": 1,
    "legend.handlelength": 1.2,
    "legend.handletextpad": 0.5,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
}
plt.rcParams.update(STYLE)  # what a page adds to its axes is in the style too

PANEL = 2.3, 1.7
"""Inches of a small panel."""


def new(columns: int = 1, rows: int = 1, *, width: float = PANEL[0], height: float = PANEL[1], **options: Any) -> Any:
    """A figure in the style and its axes: one, or an array of them. Each panel is `width` by `height` inches."""
    figure = plt.figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def show(figure: Figure, caption: str, name: str = "") -> str:
    """The figure for `print`: inline SVG in a `<figure>`. The caption also tells what is seen to those who cannot see
    it; `name` links it to the function of that name."""
    code = io.StringIO()
    with plt.rc_context({"svg.hashsalt": caption}):
        figure.savefig(code, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    plt.close(figure)
    svg = code.getvalue()[code.getvalue().index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"font-family: [^;]*", "font-family: inherit", svg)
    # identifiers are unique within a figure only, and a page has several
    prefix = re.sub(r"\W+", "-", name or caption)[:40] + "-"
    svg = re.sub(r'(\bid="|"#|url\(#)', lambda match: match[0] + prefix, svg)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(re.sub(r"<[^>]*>", "", caption))}" ', 1)
    label = f'<a href="#offline_losses.{_room(name)}.{name}"><code>{name}</code></a><br>' if name else ""
    return f'<figure class="picture">{svg}<figcaption>{label}{caption}</figcaption></figure>'


def gallery(room: str) -> str:
    """One small picture for each function of a room, in the order of its page; none if the room has no module here."""
    if importlib.util.find_spec(f"pictures.{room}") is None:
        return ""
    pictures = importlib.import_module(f"pictures.{room}")
    shown = []
    for name in functions(room):
        figure, axes = new()
        shown.append(show(figure, getattr(pictures, name)(axes), name))
    return f'<div class="gallery">{"".join(shown)}</div>'


def public(room: str) -> list[str]:
    """The public names of a room, in the order of its source."""
    module = importlib.import_module(f"offline_losses.{room}")
    return [name for name in vars(module) if name in offline_losses.__all__ and _room(name) == room]


def functions(room: str) -> list[str]:
    """Those of them that are functions."""
    return [name for name in public(room) if not isinstance(getattr(offline_losses, name), type)]


def _room(name: str) -> str:
    return str(getattr(offline_losses, name).__module__).rpartition(".")[2]


ROOMS = {_room(name) for name in offline_losses.__all__}

__all__ = [
    "BLUE",
    "GREEN",
    "INK",
    "ORANGE",
    "PURPLE",
    "ROOMS",
    "SKY",
    "SOFT",
    "Axes",
    "functions",
    "gallery",
    "new",
    "public",
    "show",
]
