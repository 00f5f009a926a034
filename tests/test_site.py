"""The site is whole: it agrees with the library, every link leads somewhere, and a real browser shows it as meant.

It is built once, strictly, and looked at twice: as HTML, and by a headless Chromium that visits every page by day, by
night and as a phone, and writes down what it sees for the tests to judge.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit
from xml.etree.ElementTree import Element, TreeBuilder

import pytest
from filelock import FileLock  # of torch
from ledger import LEDGER, TOOLS, UPDATES

import offline_losses

NEEDED = ["mkdocs", "material", "mkdocstrings", "markdown_exec", "matplotlib", "scipy", "minari", "icu_sepsis"]
MISSING = [name for name in NEEDED if find_spec(name) is None]
if MISSING:
    pytest.skip(f"needs {', '.join(MISSING)}: see `make docs`", allow_module_level=True)

ROOT = Path(__file__).parents[1]
FUNCTIONS = [*(row.name for row in LEDGER), *UPDATES, *TOOLS]
SITE = "http://site/"  # stands for wherever the site is put
SEARCHES = {
    "IQL": "expectile_loss guide/iql/",
    "implicit q-learning": "expectile_loss",
    "expectile": "expectile_loss",
    "CQL": "cql_logsumexp_penalty",
    "conservative q-learning": "cql_logsumexp_penalty",
    "Cal-QL": "calibrated_value",
    "AWR": "awr_weights",
    "CRR": "crr_weights",
    "TD3+BC": "td3_bc_loss guide/td3-bc/",
    "TD3BC": "td3_bc_loss guide/td3-bc/",
    "DT": "discounted_return",
    "returns to go": "discounted_return",
    "10% BC": "return_filter guide/filtered-cloning/",
    "soft update": "polyak_update_",
    "target network": "polyak_update_",
    "normalize reward": "reward_scale",
    "SAC": "sac_policy_loss",
    "GAE": "generalized_advantage",
    "double q-learning": "double_q_target",
}


def place(name: str) -> str:
    """Where the reference explains a public name."""
    module = getattr(offline_losses, name).__module__
    return f"reference/{module.removeprefix('offline_losses.')}/#{module}.{name}"


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> Any:
    """What `make` returns for a folder of its own, made by one process for all the workers of pytest-xdist."""
    base = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    result = base / f"{name}.json"
    with FileLock(base / f"{name}.lock"):
        if not result.exists():
            result.write_text(json.dumps(make(base / name)))
    return json.loads(result.read_text())


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process runs all tests")
def test_one_worker_builds_the_site(request: pytest.FixtureRequest) -> None:
    """Some releases of pytest take no notice of groups, and then every worker makes all that takes long to make."""
    assert request.node.nodeid.endswith("@test_site")


# The site as HTML.


class Reader(HTMLParser):
    """Makes a tree of a page."""

    VOID = frozenset({"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.builder = TreeBuilder()
        self.open = ["document"]
        self.builder.start("document", {})

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins."""
        self.builder.start(tag, {key: value or "" for key, value in attrs})
        if tag in self.VOID:
            self.builder.end(tag)
        else:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element of SVG begins and ends."""
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        """An element ends, and all that are still open in it."""
        while tag in self.open:
            self.builder.end(self.open[-1])
            if self.open.pop() == tag:
                break

    def handle_data(self, data: str) -> None:
        """Text."""
        self.builder.data(data)


def read(html: str) -> Element:
    """The tree of a page."""
    reader = Reader()
    reader.feed(html)
    reader.close()
    reader.handle_endtag("document")
    return reader.builder.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""

    def build(folder: Path) -> dict[str, Any]:
        # not with --quiet, which hides the warnings from --strict too
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
        environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        return {"folder": str(folder), "failed": done.returncode != 0, "output": done.stdout + done.stderr}

    built = once(tmp_path_factory, "site", build)
    if built["failed"]:
        pytest.fail(f"the site cannot be built:\n{built['output']}", pytrace=False)
    return Path(built["folder"])


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Element]:
    """The tree of each page, by its address below the root."""
    files = sorted(site.rglob("*.html"))
    return {path.relative_to(site).as_posix().removesuffix("index.html"): read(path.read_text()) for path in files}


def classes(element: Element) -> set[str]:
    """The CSS classes of an element."""
    return set(element.get("class", "").split())


def within(element: Element, tag: str, name: str = "") -> list[Element]:
    """The elements of a tag, and of a class, in an element."""
    return [found for found in element.iter(tag) if not name or name in classes(found)]


def text(element: Element) -> str:
    """All the text in an element."""
    return "".join(element.itertext())


def article(page: Element) -> Element:
    """What a page says, without the navigation around it."""
    return within(page, "article")[0]


def prose(element: Element) -> Iterator[str]:
    """The text in an element that is neither code nor a formula."""
    if element.tag not in {"code", "pre", "script", "style"} and "arithmatex" not in classes(element):
        yield element.text or ""
        for child in element:
            yield from prose(child)
            yield child.tail or ""


def links(address: str, element: Element) -> Iterator[tuple[Element, str]]:
    """Each element that refers to something, with the full address of that."""
    for part in element.iter():
        for key, value in part.items():
            targets = [value] if key in {"href", "src", "xlink:href"} else re.findall(r"url\(([^)]*)\)", value)
            yield from ((part, urljoin(SITE + address, target.strip("'\" "))) for target in targets)


def clicks(address: str, page: Element) -> set[str]:
    """Where the links in the text of a page lead, as addresses below the root."""
    return {
        target.removeprefix(SITE)
        for part, target in links(address, article(page))
        if part.tag == "a" and target.startswith(SITE)
    }


def test_navigation_names_and_ledger_agree(pages: dict[str, Element]) -> None:
    """The menu has every page, and the reference explains each public name once and nothing else."""
    rooms = {place(name).partition("#")[0] for name in offline_losses.__all__}
    menu = next(found for found in within(pages[""], "nav", "md-nav--primary"))
    reached = {target.removeprefix(SITE).partition("#")[0] for _, target in links("", menu) if target.startswith(SITE)}
    assert reached == set(pages) - {"404.html"}
    anchors = [(address, part.get("id", "")) for address in pages for part in article(pages[address]).iter()]
    explained = [
        f"{address}#{anchor}"
        for address, anchor in anchors
        if (match := re.fullmatch(r"offline_losses\.\w+\.(\w+)", anchor))
        and (address in rooms or match[1] in offline_losses.__all__)
    ]
    expected = Counter(place(name) for name in offline_losses.__all__)
    assert not expected - Counter(explained)
    assert not Counter(explained) - expected
    types = {name for name in offline_losses.__all__ if isinstance(getattr(offline_losses, name), type)}
    assert sorted(offline_losses.__all__) == sorted([*FUNCTIONS, *types])


def test_every_function_has_its_picture_its_example_and_its_paper(pages: dict[str, Element]) -> None:
    """The picture in the gallery of its room links to it; a paper is told by its year or its number."""
    wanting = []
    for name in FUNCTIONS:
        address, _, anchor = place(name).partition("#")
        page = article(pages[address])
        captions = [
            caption
            for gallery in within(page, "div", "gallery")
            for figure in within(gallery, "figure", "picture")
            for caption in within(figure, "figcaption")
            if within(figure, "svg") and any(link.get("href") == f"#{anchor}" for link in within(caption, "a"))
        ]
        blocks = [
            found for found in within(page, "div", "doc-function") if any(part.get("id") == anchor for part in found)
        ]
        papers = " ".join(text(found) for block in blocks for found in within(block, "details", "reference"))
        has = {
            "one picture": len(captions) == 1 or name in TOOLS,
            "a paper": re.search(r"arXiv:\d{4}\.\d{4,5}|[(,\s](19|20)\d\d\b", papers) or name in TOOLS,
            "an example": any(">>> " in text(block) for block in blocks),
        }
        wanting += [f"{name} has not {part}" for part, there in has.items() if not there]
    assert not wanting


def test_every_signature_is_wrapped(pages: dict[str, Element]) -> None:
    """One argument on each line where they do not fit: on one line a phone and a laptop cut it off."""
    long = set()
    for address, page in pages.items():
        for signature in within(article(page), "div", "doc-signature"):
            long |= {f"{address}: {line[:60]}" for line in text(signature).splitlines() if len(line) > 80}
    assert not long, "\n".join(sorted(long))


def test_every_function_is_two_clicks_from_home(pages: dict[str, Element]) -> None:
    """By links in the text alone: on a phone the navigation is folded away."""
    first = clicks("", pages[""])
    second = {
        target
        for address in {target.partition("#")[0] for target in first} & set(pages)
        for target in clicks(address, pages[address])
    }
    assert not [name for name in FUNCTIONS if place(name) not in first | second]


def test_the_lineage_speaks_of_every_function(pages: dict[str, Element]) -> None:
    """In a heading on the page of its room, with a place that the index and old links to one page lead to."""
    kept = {part.get("id") for part in article(pages["lineage/"]).iter()}
    for name in FUNCTIONS:
        room = getattr(offline_losses, name).__module__.removeprefix("offline_losses.")
        if name not in TOOLS:
            page = article(pages[f"lineage/{room}/"])
            headings = [text(found) for found in page.iter() if re.fullmatch(r"h[2-6]", found.tag)]
            assert name in {word for heading in headings for word in re.findall(r"\w+", heading)}
            assert name in {part.get("id") for part in page.iter()} & kept


def test_every_link_within_the_site_leads_somewhere(site: Path, pages: dict[str, Element]) -> None:
    """To a file, and where it names a place on a page, to that place; style sheets find their fonts and images."""
    ids = {address: {part.get("id") for part in page.iter()} for address, page in pages.items()}
    dead = set()
    for address, page in pages.items():
        for _, target in links(address, page):
            if target.startswith(SITE):
                path, anchor = unquote(urlsplit(target).path).removeprefix("/"), unquote(urlsplit(target).fragment)
                known = path in pages or (site / path).is_file()
                if not known or (anchor and path in pages and anchor not in ids[path]):
                    dead.add(f"{address or 'home'}: {target.removeprefix(SITE)}")
    for sheet in site.rglob("*.css"):
        # of the sources of a font a browser takes the first that it can read, and each can read the first
        for target in re.findall(r"(?<!,)url\((?!['\"]?data:)['\"]?([^)'\"]+)", sheet.read_text()):
            if not (sheet.parent / urlsplit(target).path).is_file():
                dead.add(f"{sheet.relative_to(site)}: {target}")
    assert not dead, "\n".join(sorted(dead))


def test_no_page_loads_anything_from_elsewhere(site: Path, pages: dict[str, Element]) -> None:
    """A reader may follow a link to a paper; a script, a style, a font or an image comes with the site."""
    strange = {
        f"{address or 'home'}: {target}"
        for address, page in pages.items()
        for part, target in links(address, page)
        if part.tag != "a" and not target.startswith((SITE, "data:"))
    }
    for sheet in site.rglob("*.css"):
        rules = re.sub(r"\{\s*@import[^}]*\}", "{}", sheet.read_text())  # it means nothing within a rule
        found = re.findall(r"""(?:url\(|@import)\s*['"]?((?:https?:)?//[^)'"]*)""", rules)
        strange |= {f"{sheet.relative_to(site)}: {target}" for target in found}
    assert not strange, "\n".join(sorted(strange))


def test_an_id_is_given_once_on_a_page(pages: dict[str, Element]) -> None:
    """Or a link, or a part of a figure, would find another element than the one it means."""
    counts = {
        address: Counter(part.get("id") for part in page.iter() if part.get("id")) for address, page in pages.items()
    }
    assert not [(address, key) for address, count in counts.items() for key, number in count.items() if number > 1]


def test_no_markup_is_left_over(pages: dict[str, Element]) -> None:
    """What reads like Markdown or a template in the finished text was not understood, and a snippet not run."""
    marks = re.compile(r"```|~~~|\{\{|\}\}|\*\*|:::|--8<--|exec=|\]\(|\]\[|^!!! |^\?\?\? |^#+ ", re.MULTILINE)
    left = {
        f"{address or 'home'}: {words.strip()[:80]}"
        for address, page in pages.items()
        for words in prose(article(page))
        if marks.search(words)
    }
    assert not left, "\n".join(sorted(left))


# The site in a browser.

LOOK = r"""
const [scheme, done] = arguments, page = document.querySelector("article");
const all = (selector) => [...page.querySelectorAll(selector)];
const box = (element) => element.getBoundingClientRect();
const size = (element) => [box(element).width, box(element).height];
const scrolls = (element) =>
  element !== page && (/auto|scroll/.test(getComputedStyle(element).overflowX) || scrolls(element.parentElement));
const label = (element) => {
  const frame = element.ownerSVGElement, scale = box(frame).width / frame.viewBox.baseVal.width;
  let opacity = 1;
  for (let part = element; part !== frame; part = part.parentElement) opacity *= getComputedStyle(part).opacity;
  const over = Math.max(box(frame).left - box(element).left, box(element).right - box(frame).right);
  const {fill, fontSize} = getComputedStyle(element);
  return {text: element.textContent.trim(), fill, opacity, size: parseFloat(fontSize) * scale, over: over / scale};
};
const raw = () => {
  const words = document.createTreeWalker(page, NodeFilter.SHOW_TEXT), found = [];
  for (let node = words.nextNode(); node; node = words.nextNode())
    if (/\\[a-z()[\]]|\$/i.test(node.data) && !node.parentElement.closest("code, pre, .katex, script, style"))
      found.push(node.data.trim());
  const formulas = all(".arithmatex:not(:has(.katex-html)), .katex-error");
  return found.concat(formulas.map((element) => element.textContent));
};
const look = () => done({
  scheme: document.body.dataset.mdColorScheme,
  background: getComputedStyle(document.body).backgroundColor,
  ink: getComputedStyle(page).color,
  formulas: all(".katex-html").map(size),
  fonts: [...document.fonts].filter((font) => font.status === "loaded").map((font) => font.family),
  raw: raw(),
  figures: all("figure svg, img").map(size),
  broken: all("img").filter((image) => !image.naturalWidth).map((image) => image.src),
  labels: all("figure svg text").filter((element) => element.checkVisibility()).map(label),
  width: document.documentElement.scrollWidth,
  tables: all("table")
    .filter((element) => element.scrollWidth > (element.closest(".md-typeset__scrollwrap") ?? page).clientWidth + 1)
    .map((element) => element.innerText.slice(0, 40)),
  wide: all(":not(.katex-mathml *, .katex svg, svg *)")
    .filter((element) => box(element).right > innerWidth + 1 && !scrolls(element))
    .map((element) => element.outerHTML.slice(0, 90)),
});
const settle = (tries) => {
  if (document.body.dataset.mdColorScheme === scheme || !tries) requestAnimationFrame(look);
  else setTimeout(settle, 20, tries - 1);
};
document.fonts.ready.then(() => settle(200));
"""
VIEWS = {"day": ("light", "default", 1280), "night": ("dark", "slate", 1280), "phone": ("light", "default", 390)}
"""What a reader prefers, what the site calls that, and how wide the window is."""

FLAGS = [
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # there is no network but the site
]


class Silent(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def served(site: Path) -> Iterator[str]:
    """The address at which the site is served."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A browser that tells its console and its requests."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in [*FLAGS, f"user-data-dir={profile}"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options, ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def prefer(driver: Any, view: str) -> None:
    """Set the browser up for a view. Nothing moves, so that what is seen is not on its way."""
    scheme, _, width = VIEWS[view]
    preferences = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in preferences.items()]
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def looks(driver: Any, address: str) -> dict[str, Any]:
    """What is on a page in each view."""
    found = {}
    for view, (_, scheme, _) in VIEWS.items():
        prefer(driver, view)
        if not found:
            driver.get(address)
        found[view] = driver.execute_async_script(LOOK, scheme)
    return found


def answers(driver: Any, home: str, words: str) -> list[str]:
    """Where the results lead that the search lists for some words, before anyone scrolls for more."""
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.wait import WebDriverWait

    driver.get(home)
    box = driver.find_element(By.CSS_SELECTOR, "input.md-search__input")
    box.click()
    driver.execute_cdp_cmd("Input.insertText", {"text": words})  # at once, so that no part of it is answered
    box.send_keys(Keys.END)
    results = "return [...document.querySelectorAll('a.md-search-result__link')].map((link) => link.href)"
    try:
        links = WebDriverWait(driver, 10, 0.1).until(lambda driver: driver.execute_script(results))
    except TimeoutException:
        return []
    return [re.sub(r"\?h=[^#]*", "", link).removeprefix(home) for link in links]


@pytest.fixture(scope="module")
def seen(site: Path, pages: dict[str, Element], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a browser sees on every page, what it complains of and asks for, and what the search answers."""
    pytest.importorskip("selenium", reason="needs selenium")
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}, of Debian's packages chromium and chromium-driver")

    def browse(profile: Path) -> dict[str, Any]:
        with served(site) as home, chromium(profile) as driver:
            views = {address or "home": looks(driver, home + address) for address in pages}
            prefer(driver, "day")
            found = {words: answers(driver, home, words) for words in SEARCHES}
            complaints = [entry["message"].replace(home, "") for entry in driver.get_log("browser")]
            events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
        asked = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        requests = {
            part["request"]["url"].replace(home, SITE) for part in asked if part["documentURL"].startswith(home)
        }
        return {"views": views, "answers": found, "complaints": complaints, "requests": sorted(requests)}

    return once(tmp_path_factory, "seen", browse)


def each(seen: dict[str, Any], view: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The pages by name, with what was seen on them in a view."""
    yield from ((name, views[view]) for name, views in seen["views"].items())


def channels(color: str) -> tuple[list[float], float]:
    """Red, green and blue, and opacity, of a color as a browser writes it, from zero to one."""
    numbers = [float(number) for number in re.findall(r"[\d.]+", color)]
    return [number / 255 for number in numbers[:3]], (numbers[3:] or [1.0])[0]


def luminance(color: list[float]) -> float:
    """How light a color is, from zero to one."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(above: str, below: str, opacity: float = 1.0) -> float:
    """How far a color stands out from another, from 1 to 21, after the Web Content Accessibility Guidelines 2."""
    (color, alpha), (ground, _) = channels(above), channels(below)
    mixed = [opacity * alpha * a + (1 - opacity * alpha) * b for a, b in zip(color, ground, strict=True)]
    dark, light = sorted((luminance(mixed), luminance(ground)))
    return (light + 0.05) / (dark + 0.05)


def test_every_formula_is_rendered(seen: dict[str, Any]) -> None:
    """In KaTeX's own fonts; no TeX is left in the text of any page."""
    raw = [f"{name}: {words}" for name, look in each(seen, "day") for words in look["raw"]]
    assert not raw, "\n".join(raw)
    regression = seen["views"]["reference/regression/"]["day"]
    assert "KaTeX_Main" in regression["fonts"]
    assert len(regression["formulas"]) > 4
    assert all(width > 0 and height > 0 for _, look in each(seen, "day") for width, height in look["formulas"])


@pytest.mark.parametrize("words", SEARCHES)
def test_search_finds_what_is_called_otherwise(seen: dict[str, Any], words: str) -> None:
    """By the paper's name, its short form or another word for the thing: the function, and the page that derives it."""
    wanted = {place(name) if name in FUNCTIONS else name for name in SEARCHES[words].split()}
    assert wanted <= set(seen["answers"][words])


def test_search_looks_at_no_source(site: Path) -> None:
    """Listings would answer every word of Python, and repeat each docstring."""
    index = json.loads((site / "search" / "search_index.json").read_text())
    assert not [entry["location"] for entry in index["docs"] if "Source code in" in entry["text"]]


def test_every_figure_is_visible(seen: dict[str, Any]) -> None:
    """It has a size, its images are loaded, and none of its words is cut off at its edge."""
    assert len(seen["views"]["reference/regression/"]["day"]["figures"]) == 4
    hidden = set()
    for view in VIEWS:
        for name, look in each(seen, view):
            hidden |= {f"{name}: {size} pixels by {view}" for size in look["figures"] if min(size) < 50}
            hidden |= {f"{name}: {source}" for source in look["broken"]}
            hidden |= {f"{name}: {label['text']} is cut off" for label in look["labels"] if label["over"] > 1}
    assert not hidden, "\n".join(sorted(hidden))


@pytest.mark.parametrize("view", ["day", "night"])
def test_pages_and_figures_are_legible_by_day_and_by_night(seen: dict[str, Any], view: str) -> None:
    """The page follows the reader's system, and all words stand out from it, those in figures too."""
    _, scheme, _ = VIEWS[view]
    faint = set()
    for name, look in each(seen, view):
        assert look["scheme"] == scheme, name
        assert (luminance(channels(look["background"])[0]) > 0.5) == (view == "day"), name
        assert contrast(look["ink"], look["background"]) >= 4.5, name
        for label in look["labels"]:
            ratio = contrast(label["fill"], look["background"], label["opacity"])
            # no one color stands out 4.5 from both backgrounds: words in the colors of lines need what lines need
            if ratio < (4.5 if label["fill"] == look["ink"] else 3):
                faint.add(f"{name}: {label['text']} ({label['fill']}, {ratio:.1f} to 1)")
    assert not faint, "\n".join(sorted(faint))


def test_every_page_is_readable_on_a_phone(seen: dict[str, Any]) -> None:
    """No page is wider, and no table; formulas and code scroll. No letter in a figure is below 7 pixels."""
    trouble = set()
    for name, look in each(seen, "phone"):
        trouble |= {f"{name}: the table of {table}" for table in look["tables"]}
        if look["width"] > VIEWS["phone"][2] or look["wide"]:
            trouble.add(f"{name}: {look['width']} pixels wide, {look['wide'][:3]}")
        small = [label["size"] for label in look["labels"] if label["size"] < 7]
        if small:
            trouble.add(f"{name}: {len(small)} words in figures are small, down to {min(small):.1f} pixels")
    assert not trouble, "\n".join(sorted(trouble))


def test_no_page_complains_in_the_console(seen: dict[str, Any]) -> None:
    """No error, no warning, and nothing left from looking for one."""
    assert not seen["complaints"], "\n".join(seen["complaints"])


def test_no_request_leaves_the_site(seen: dict[str, Any]) -> None:
    """All that the browser asked for on any page, and while searching, came with the site."""
    assert SITE + "search/search_index.json" in seen["requests"]
    assert not [url for url in seen["requests"] if not url.startswith((SITE, "data:", "blob:"))]
