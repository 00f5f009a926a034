"""Several seeds of what the demo runs once: mean and standard error over seeds, in one JSON file.

`python docs/recipes/seeds.py` makes `docs/recipes/seeds.json`. Each run is that of the demo, but for the seed and for
what is evaluated on the way.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from demo import RUNS, Run, build, execute
from embedded import EMBEDDED
from summary import to_json

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
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps-scale", type=float, default=1.0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/recipes/seeds.json"))
    options = parser.parse_args(argv)

    runs = [run for run in RUNS if run.family in options.families for _ in options.seeds]
    flags = [f"{QUICK} --seed {seed}" for _ in range(len(runs) // len(options.seeds)) for seed in options.seeds]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(build, EMBEDDED))
        results = list(pool.map(execute, runs, repeat(options.steps_scale), flags))
    count = len(options.seeds)
    rows = [summary(runs[i], results[i : i + count], options.seeds) for i in range(0, len(runs), count)]
    options.out.write_text(to_json(rows))
    for row in rows:
        print(f"{row['dataset']:26} {row['family']:9} {row['mean']:10.4f} ± {row['standard_error']:.4f}")
    return rows


def summary(run: Run, results: Sequence[dict[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    returns = [result["return"] for result in results]
    return {
        "dataset": run.dataset,
        "family": run.family,
        "dataset_mean": results[0]["dataset_mean"],
        "seeds": list(seeds),
        "returns": returns,
        "mean": fmean(returns),
        "standard_error": stdev(returns) / math.sqrt(len(returns)),
    }


if __name__ == "__main__":
    main()
