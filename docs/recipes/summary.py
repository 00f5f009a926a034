"""Results of runs, shown and saved: of each setting the mean over its seeds, its standard error, and the IQM."""

from __future__ import annotations

import csv
import json
import math
from argparse import Namespace
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from offline_losses import interquartile_mean, stratified_bootstrap_interval

Result = dict[str, Any]
LEVEL = 0.95  # of the interval around the interquartile mean


def settings(results: list[Result]) -> list[list[Result]]:
    """The results of each combination of values that were swept, those of all seeds together."""
    return [list(group) for _, group in groupby(results, key=lambda result: result["setting"])]


def over_seeds(scores: list[float]) -> dict[str, Any]:
    """Mean, its standard error, and the interquartile mean (IQM) with its bootstrap interval."""
    score, generator = torch.tensor(scores, dtype=torch.float64), torch.Generator().manual_seed(0)
    known = len(scores) > 1 and all(map(math.isfinite, scores))
    interval = (
        stratified_bootstrap_interval(interquartile_mean, score, generator=generator, level=LEVEL) if known else ()
    )
    return {
        "mean": fmean(scores),
        "standard_error": stdev(scores) / math.sqrt(len(scores)) if known else None,
        "iqm": interquartile_mean(score).item(),
        "iqm_interval": [end.item() for end in interval] or None,
    }


def summed_up(results: list[Result]) -> Result:
    """One setting's results as one: means over its seeds, and what each of its runs measured."""
    first, count = results[0], len(results)
    means = {key: _mean([result[key] for result in results]) for key, value in first.items() if _is_number(value)}
    curves = zip(*(result["history"] for result in results), strict=True)
    history = []
    for rows in curves:
        history.append({key: _mean([row[key] for row in rows]) for key in rows[0]})
        if count > 1:
            history[-1]["return_standard_error"] = over_seeds([row["return"] for row in rows])["standard_error"]
    found = over_seeds([result["return"] for result in results])
    error = first["return_standard_error"] if count == 1 else found["standard_error"]  # of episodes, or of seeds
    about = {"return_standard_error": error, "return_iqm": found["iqm"], "return_iqm_interval": found["iqm_interval"]}
    if count > 1 and first.get("true_return") is not None:
        about["true_return_standard_error"] = over_seeds([result["true_return"] for result in results])[
            "standard_error"
        ]
    about |= {"seeds": [result["options"]["seed"] for result in results]}
    about |= {"returns": [result["return"] for result in results], "history": history}
    return first | means | about


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _mean(values: list[Any]) -> Any:
    """The values' own one, where they do not differ."""
    return values[0] if all(value == values[0] for value in values) else fmean(values)


def show(results: list[Result]) -> None:
    """One setting in detail, or a row for each of several."""
    rows = [summed_up(group) for group in settings(results)]
    Console().print(_details(rows[0]) if len(rows) == 1 else _comparison(rows))


def _comparison(rows: list[Result]) -> Table:
    title = f"{rows[0]['recipe']} on {rows[0]['dataset']}, seeds {', '.join(map(str, rows[0]['seeds']))}"
    table = Table(*rows[0]["setting"], "return", "interquartile mean", title=title)
    for row in rows:
        mean = _with_error(row["return"], row["return_standard_error"] if len(row["seeds"]) > 1 else None)
        iqm = _iqm(row["return_iqm"], row["return_iqm_interval"])
        table.add_row(*(f"{value:g}" for value in row["setting"].values()), mean, iqm)
    return table


def _details(row: Result) -> Table:
    table = Table("", "", title=f"{row['recipe']} on {row['dataset']}", show_header=False)
    several = len(row["seeds"]) > 1
    over = f", mean of {len(row['seeds'])} seeds" if several else ""
    table.add_row(f"return{over}", _with_error(row["return"], row["return_standard_error"]))
    if several and row["return_iqm_interval"]:
        table.add_row("return, interquartile mean", _iqm(row["return_iqm"], row["return_iqm_interval"]))
        table.add_row("return of each seed", ", ".join(f"{x:.4g}" for x in row["returns"]))
    last = min(row["options"]["checkpoints"], len(row["history"]))
    table.add_row(f"mean of the last checkpoints ({last})", f"{row['return_of_checkpoints']:.4g}")
    if "return_sampled" in row:
        table.add_row("return, actions sampled", f"{row['return_sampled']:.4g}")
    table.add_row("dataset, mean and best", f"{row['dataset_mean']:.4g}, {row['dataset_best']:.4g}")
    if row.get("true_return") is not None:
        table.add_row("Q on the data's actions", f"{row['q_data']:.4g}")
        table.add_row("what they truly return", f"{row['true_return']:.4g} ± {row['true_return_standard_error']:.2g}")
    table.add_row("training", f"{row['seconds']:.1f} s, {row['updates_per_second']:.0f} updates/s")
    return table


def show_scores(recipe: str, runs: list[Namespace], results: list[dict[str, float]]) -> None:
    """What each run measured by several names: the mean over the seeds, its standard error, and the IQM."""
    table = Table("", "mean", "interquartile mean", title=f"{recipe}, seeds {', '.join(str(run.seed) for run in runs)}")
    for name in results[0]:
        found = over_seeds([result[name] for result in results])
        table.add_row(
            name, _with_error(found["mean"], found["standard_error"]), _iqm(found["iqm"], found["iqm_interval"])
        )
    Console().print(table)


def _with_error(mean: float, error: float | None) -> str:
    return f"{mean:.4g}" + ("" if error is None else f" ± {error:.2g}")


def _iqm(mean: float, interval: list[float] | None) -> str:
    return f"{mean:.4g}" + (" [{:.4g}, {:.4g}]".format(*interval) if interval else "")


def save(result: Result, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(to_json(result))
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, result["history"][0])
        writer.writeheader()
        writer.writerows(result["history"])


def folder_of(run: Namespace, setting: dict[str, float], options: Namespace) -> Path:
    """`--out` itself for a single run, and a folder in it for each of several."""
    if len(options.runs) == 1:
        return options.out
    return options.out / "-".join([*(f"{name}-{value:g}" for name, value in setting.items()), f"seed-{run.seed}"])


def to_json(results: Any) -> str:
    """Indented JSON, with null for what is not a number."""
    strict = json.loads(json.dumps(results), parse_constant=lambda _: None)
    return json.dumps(strict, indent=1) + "\n"
