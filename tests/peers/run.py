"""Check the claims of one package against its release, print the table and keep it: `python tests/peers/run.py rlax`.

With the name of a function after it only that one is checked, and nothing kept.
"""

from __future__ import annotations

import datetime
import importlib
import importlib.metadata
import sys
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from claims import MODULES, Checked, check, claimed, claims, digest, each, keep  # noqa: E402


def main(package: str, function: str = "") -> int:
    """How many claims are false."""
    torch.set_default_dtype(torch.float64)
    evaluate = importlib.import_module(f"{MODULES[package]}_claims").evaluator()
    about = package, importlib.metadata.version(MODULES[package]), f"{datetime.date.today()}", digest(package)
    results = []
    for row, claim in each(package):
        if function not in ("", row.section):
            continue
        try:
            verdict, sizes, note = check(row, claim, evaluate)
        except Exception as error:
            verdict, sizes, note = "DISAGREES", ["none"] * 4, f"{type(error).__name__}: {error}"[:300]
        result = Checked(*about, row.page, row.section, row.code, claim.theirs, verdict, *sizes, note)
        print(f"{package} {row.section:28} {' '.join(f'{x:>6}' for x in sizes)}  {verdict}  {note}", flush=True)
        results.append(result)
    rows, read = claimed(package), claims(package)[1]
    for key, reason in read.items():
        row = rows[key]
        results.append(Checked(*about, row.page, row.section, row.code, row.place, "read only", *["none"] * 4, reason))
    wrong = [result for result in results if result.verdict.isupper() or result.verdict.startswith("AGREES,")]
    if not (wrong or function):
        keep(package, results)
    print(f"{package} {about[1]}: {len(results)} claims, {len(read)} of them only read, {len(wrong)} false")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(min(main(*sys.argv[1:]), 1))
