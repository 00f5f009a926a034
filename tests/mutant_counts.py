"""How many small faults of each module its tests notice, as runs have found it: `mutants.csv`."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

REPORT = Path(__file__).parent / "mutants.csv"
PACKAGE = Path(__file__).parent.parent / "offline_losses"
COUNTS = ["room", "date", "code", "mutants", "tried", "killed", "equivalent", "survived"]


def modules() -> dict[str, Path]:
    """Every module of the library."""
    names = {path: str(path.relative_to(PACKAGE).with_suffix("")) for path in sorted(PACKAGE.rglob("*.py"))}
    return {name.removesuffix("/__init__"): path for path, name in names.items()}


def code(path: Path) -> str:
    """Which state of a module a row is about."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def listed(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def keep(row: dict[str, str]) -> None:
    """Put a row in the place of the one that was there for its module."""
    rows = sorted([*(old for old in listed(REPORT) if old["room"] != row["room"]), row], key=lambda row: row["room"])
    with REPORT.open("w", newline="") as file:
        table = csv.DictWriter(file, COUNTS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def rate(row: dict[str, str]) -> float:
    """The share of those that are noticed, without the equivalent ones."""
    return int(row["killed"]) / (int(row["tried"]) - int(row["equivalent"]))


def as_page() -> str:
    """The table for people, with an asterisk where a module has changed since."""
    rows, paths = listed(REPORT), modules()
    lines = ["| room | mutants | noticed | equivalent | rate |", "| --- | --: | --: | --: | --: |"]
    for row in rows:
        changed = "" if row["code"] == code(paths[row["room"]]) else "\\*"
        drawn = "" if row["tried"] == row["mutants"] else f" drawn of {row['mutants']}"
        counts = f"{row['tried']}{drawn} | {row['killed']} | {row['equivalent']}"
        lines.append(f"| {row['room']} | {counts} | {rate(row):.1%}{changed} |")
    dates = sorted(row["date"] for row in rows)
    return "\n".join([*lines, "", f"Run from {dates[0]} to {dates[-1]}."])
