"""Holds off-policy evaluation against the truth: `python -m validation`, all of it, some minutes on one core."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from validation import clinical, decisions, enumerated

KEPT = Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="validation", description=__doc__)
    add = parser.add_argument
    add("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all of them if none is named")
    add("--patients", nargs="+", type=int, default=[200, 2000, 20_000], help="of a log, each size in its turn")
    add("--resamples", type=int, default=200, help="logs of each size")
    add("--steps", type=int, default=1500, help="updates of the policy that is learned")
    add("--work", type=Path, default=Path("results"), help="folder for the wheel with the logs and the learned policy")
    add("--out", type=Path, default=KEPT)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for part in options.parts or PARTS:
        file = options.out / f"{part}.json"
        file.write_text(json.dumps(_rounded(PARTS[part](options)), indent=1) + "\n")
        print(f"wrote {file}")


def _clinical(options: argparse.Namespace) -> dict[str, Any]:
    world = clinical.IcuSepsis()
    learned = clinical.learned_policy(world, options.steps, options.work / "awr")
    chosen = clinical.policies(world, learned)
    sample, logs = clinical.Sampler(world), track(range(options.resamples), "logs")
    rows = [row for seed in logs for row in clinical.measured(sample, chosen, options.patients, seed)]
    return {"resamples": options.resamples, **clinical.summary(world, chosen, rows)}


PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "clinical": _clinical,
    "enumerated": lambda _: enumerated.differences(),
    "decisions": lambda options: decisions.table(decisions.wheel(options.work)),
}


def _rounded(x: Any) -> Any:
    """Six digits, which are more than any of this is known to."""
    if isinstance(x, dict):
        return {key: _rounded(value) for key, value in x.items()}
    if isinstance(x, list):
        return [_rounded(value) for value in x]
    return float(f"{x:.6g}") if isinstance(x, float) else x


if __name__ == "__main__":
    main()
