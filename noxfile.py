"""`make matrix`: the tests of the core with every PyTorch and on every Python that the project claims."""

from __future__ import annotations

import csv
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

import nox

TORCH = ["2.8.0", "2.13.0", "2.14.1", "2.15.0"]
PYTHON = ["3.11", "3.12", "3.13", "3.14"]
CORE = ["tests/rooms", "tests/contracts"]
for name in ("core", "compile", "kernels", "products", "update"):
    CORE += sorted(map(str, Path("tests").glob(f"test_{name}*.py")))
RESULTS = Path("tests", "matrix.csv")
COLUMNS = ["torch", "python", "passed", "failed", "skipped", "date"]

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False


def keep(row: dict[str, str]) -> None:
    """Put a row in the place of the one that was measured before with the same PyTorch and Python."""
    rows = list(csv.DictReader(RESULTS.open(newline=""))) if RESULTS.exists() else []
    kept = [other for other in rows if (other["torch"], other["python"]) != (row["torch"], row["python"])]
    with RESULTS.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(sorted([*kept, row], key=lambda row: [*version(row["torch"]), *version(row["python"])]))


def version(text: str) -> list[int]:
    """What a version's name is sorted by."""
    return [int(part) for part in text.split(".")[:2]]


# the newest PyTorch is not built for the oldest Python any more
PAIRS = dict.fromkeys([("3.10", TORCH[0]), *(("3.11", torch) for torch in TORCH), *((p, TORCH[-1]) for p in PYTHON)])


@nox.session
@nox.parametrize(("python", "torch"), list(PAIRS))
def core(session: nox.Session, torch: str) -> None:
    """All that needs PyTorch, NumPy, SciPy, Hypothesis and pytest alone; a Python that is not here is skipped."""
    session.install(f"torch=={torch}", "numpy", "scipy", "hypothesis", "pytest<9.2", "pytest-xdist")
    report = Path(session.create_tmp()) / "report.xml"
    options = ["--numprocesses", "auto", "--dist", "loadgroup", "--quiet", f"--junit-xml={report}"]
    session.run("python", "-m", "pytest", *options, *(session.posargs or CORE), success_codes=[0, 1])
    suite = next(ElementTree.parse(report).iter("testsuite")).attrib
    failed, skipped = int(suite["failures"]) + int(suite["errors"]), int(suite["skipped"])
    counts = {"passed": int(suite["tests"]) - failed - skipped, "failed": failed, "skipped": skipped}
    ran = {"torch": torch, "python": str(session.python), "date": str(date.today())}
    keep(ran | {name: str(count) for name, count in counts.items()})
    if failed:
        session.error(f"{failed} tests failed")
