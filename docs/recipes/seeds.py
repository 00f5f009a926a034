"""The returns of the demo's runs over several seeds, without what else it evaluates on the way, in one JSON file.

`python docs/recipes/seeds.py` makes `docs/recipes/seeds.json`, of the families that are named in it or as --families.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from demo import RUNS, build, execute
from embedded import EMBEDDED
from summary import Result, over_seeds, to_json

FAMILIES = [
    "XQL",
    "SQL",
    "HL-Gauss",
    "EDAC",
    "QR-CQL",
    "ReBRAC",
    "FQL",
    "RECAP",
    "composed",
    "diffusion BC",
    "DT",
    "HIQL",
]
QUICK = "--evaluations 1 --probe 1"  # the last evaluation alone: training is the same


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--families", nargs="+", default=FAMILIES)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps-scale", type=float, default=1.0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/recipes/seeds.json"))
    options = parser.parse_args(argv)

    runs = [run for run in RUNS if run.family in options.families]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(build, EMBEDDED))
        same = (repeat(each) for each in (options.steps_scale, options.seeds, QUICK))
        rows = [summary(result) for result in pool.map(execute, runs, *same)]
    options.out.write_text(to_json(rows))
    for row in rows:
        print(f"{row['dataset']:26} {row['family']:9} {row['mean']:10.4f} ± {row['standard_error']:.4f}")
    return rows


def summary(result: Result) -> dict[str, Any]:
    kept = {key: result[key] for key in ("dataset", "family", "dataset_mean", "seeds", "returns")}
    return kept | over_seeds(result["returns"])


if __name__ == "__main__":
    main()
