"""All the families on all the embedded datasets: one table for each dataset, two figures, one JSON file.

`python docs/recipes/demo.py` builds the datasets that are missing and runs the recipes below, each as it would run from
the command line, five seeds side by side, as many recipes at a time as there are cores. A first look, with one seed
each, comes within a minute. What it prints is what it measured.
"""

from __future__ import annotations

import argparse
import importlib
import io
import multiprocessing
import os
import queue
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import Row
from embedded import EMBEDDED, load
from figures import draw_learning_curves, draw_q_and_truth
from flags import count, from_zero, number
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from summary import Result, summed_up, to_json
from truth import SEPSIS, clinical_world

SILENCE = 5  # seconds between lines of progress, where there is no terminal to draw bars on
WIDTH = 130  # of tables, where there is no terminal that has one
Message = tuple[str, float, str]  # what is under way, the share that is done, the latest return
_messages: multiprocessing.Queue[Message] | None = None  # set in a worker


class Run(NamedTuple):
    """`python docs/recipes/<recipe>.py --dataset <dataset> <flags>`; `steps` is a flag that the demo can scale."""

    dataset: str
    family: str
    recipe: str
    steps: int
    flags: str


# Temperatures and penalty weights are in units of scaled return (see task.py). What differs between the datasets:
# the horizon (a swing-up is over in some 50 steps, and a discount of 0.97 sees that far; patients are treated for 9
# steps, undiscounted, so that Q is a probability of survival), the share of good episodes, and the noise (a patient's
# fate says little about one treatment: larger batches for what imitates). CQL and DQN differ by the penalty alone.
PENDULUM, CARTPOLE, SEPSIS_ICU, MAZE = EMBEDDED
SHARED = {
    PENDULUM: "--discount 0.97 --hidden 64 --batch-size 128 --episodes 30 --probe 64",
    CARTPOLE: "--discount 0.98 --hidden 64 --batch-size 128 --episodes 30 --probe 64",
    SEPSIS_ICU: "--discount 1.0 --probe 64",
    MAZE: "--discount 0.97",
}
RUNS = [
    Run(PENDULUM, "BC", "bc", 1000, ""),
    Run(PENDULUM, "filtered BC", "bc", 1500, "--fraction 0.3"),
    Run(PENDULUM, "AWR", "awr", 3000, "--temperature 0.3"),
    Run(PENDULUM, "IQL", "iql", 4000, "--batch-size 256 --temperature 0.1 --expectile 0.9 --polyak 0.02"),
    Run(PENDULUM, "XQL", "xql", 4000, "--batch-size 256 --temperature 0.1 --polyak 0.02"),
    Run(PENDULUM, "SQL", "sql", 4000, "--batch-size 256 --temperature 0.1 --polyak 0.02"),
    Run(PENDULUM, "EQL", "sql", 4000, "--exponential --batch-size 256 --temperature 0.1 --polyak 0.02"),
    Run(
        PENDULUM,
        "HL-Gauss",
        "hl_gauss",
        6000,
        "--batch-size 256 --lr 0.003 --temperature 0.1 --expectile 0.9 --polyak 0.02",
    ),
    Run(PENDULUM, "CQL", "cql", 2400, "--conservative 0.05 --polyak 0.02"),
    Run(PENDULUM, "TD3+BC", "td3_bc", 2800, "--q-weight 10 --polyak 0.02"),
    Run(PENDULUM, "ReBRAC", "rebrac", 2000, "--policy-bc 0.03 --critic-bc 0.03 --polyak 0.02"),
    Run(PENDULUM, "FQL", "fql", 1600, "--distillation 0.03 --polyak 0.02"),
    Run(PENDULUM, "RECAP", "recap", 6000, "--batch-size 256 --guidance 5"),
    Run(PENDULUM, "composed", "compose", 4000, "--batch-size 256 --lr 0.003"),
    Run(PENDULUM, "diffusion BC", "diffusion_bc", 2400, "--fraction 0.3"),
    Run(PENDULUM, "SAC", "sac", 2000, "--polyak 0.02"),
    Run(PENDULUM, "EDAC", "edac", 1800, "--polyak 0.02"),
    Run(CARTPOLE, "BC", "bc", 1500, ""),
    Run(CARTPOLE, "filtered BC", "bc", 1000, "--fraction 0.03"),
    Run(CARTPOLE, "AWR", "awr", 2000, "--temperature 1"),
    Run(CARTPOLE, "DT", "decision_transformer", 1000, "--batch-size 32"),
    Run(CARTPOLE, "IQL", "iql", 4000, "--temperature 0.05 --polyak 0.02"),
    Run(CARTPOLE, "XQL", "xql", 4000, "--temperature 0.3 --polyak 0.02"),
    Run(CARTPOLE, "SQL", "sql", 4000, "--temperature 0.1 --polyak 0.02"),
    Run(CARTPOLE, "EQL", "sql", 4000, "--exponential --temperature 0.3 --polyak 0.02"),
    Run(CARTPOLE, "HL-Gauss", "hl_gauss", 4000, "--temperature 0.05 --polyak 0.02"),
    Run(CARTPOLE, "CQL", "discrete_cql", 6000, "--conservative 1 --polyak 0.02"),
    Run(CARTPOLE, "QR-CQL", "qr_cql", 3000, "--quantiles 16 --conservative 0.3 --polyak 0.02"),
    Run(CARTPOLE, "DQN", "discrete_cql", 6000, "--conservative 0 --polyak 0.02"),
    Run(SEPSIS_ICU, "BC", "bc", 400, "--hidden 256 --batch-size 1024"),
    Run(SEPSIS_ICU, "filtered BC", "bc", 400, "--hidden 256 --batch-size 1024 --fraction 0.75"),
    Run(SEPSIS_ICU, "AWR", "awr", 500, "--hidden 256 --batch-size 1024 --temperature 10"),
    Run(SEPSIS_ICU, "IQL", "iql", 3000, "--hidden 128 --temperature 0.3 --polyak 0.02"),
    Run(SEPSIS_ICU, "XQL", "xql", 2000, "--hidden 128 --temperature 1 --polyak 0.02"),
    Run(SEPSIS_ICU, "SQL", "sql", 2000, "--hidden 128 --temperature 1 --polyak 0.02"),
    Run(SEPSIS_ICU, "EQL", "sql", 2000, "--exponential --hidden 128 --temperature 1 --polyak 0.02"),
    Run(SEPSIS_ICU, "HL-Gauss", "hl_gauss", 2000, "--hidden 128 --temperature 0.3 --polyak 0.02"),
    Run(SEPSIS_ICU, "CQL", "discrete_cql", 5000, "--hidden 128 --conservative 1 --temperature 1 --polyak 0.01"),
    Run(
        SEPSIS_ICU,
        "QR-CQL",
        "qr_cql",
        2000,
        "--hidden 128 --quantiles 16 --conservative 0.3 --temperature 1 --delta 10 --polyak 0.02",
    ),
    Run(SEPSIS_ICU, "DQN", "discrete_cql", 5000, "--hidden 128 --conservative 0 --polyak 0.01"),
    Run(MAZE, "BC", "bc", 1000, ""),
    Run(MAZE, "HIQL", "hiql", 3000, "--lr 0.003"),
]


FIRST_LOOK = [
    Run(PENDULUM, "BC", "bc", 500, ""),
    Run(PENDULUM, "filtered BC", "bc", 1200, "--fraction 0.3"),
    Run(PENDULUM, "IQL", "iql", 2000, "--batch-size 256 --temperature 0.1 --expectile 0.9 --polyak 0.02"),
    Run(PENDULUM, "TD3+BC", "td3_bc", 1500, "--q-weight 10 --polyak 0.02"),
]


def main(argv: Sequence[str] | None = None) -> list[Result]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/demo"))
    parser.add_argument(
        "--steps-scale", type=number("()"), default=1.0, help="every run makes this many times its updates"
    )
    parser.add_argument("--seeds", type=count, default=5, help="of every run")
    parser.add_argument("--flags", default="", help="further flags for every recipe, such as '--seed 5'")
    parser.add_argument(
        "--jobs", type=from_zero, default=os.cpu_count() or 1, help="runs at a time; 0: all in this process"
    )
    options = parser.parse_args(argv)
    console, started = Console(), time.perf_counter()
    console = console if console.is_terminal else Console(width=WIDTH)

    results = run_all(options)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(to_json(results))
    for dataset in EMBEDDED:
        console.print(table(dataset, [result for result in results if result["dataset"] == dataset]))
    figures = [draw_learning_curves(results, options.out), draw_q_and_truth(results, options.out)]
    console.print(f"{time.perf_counter() - started:.0f} s. Saved {', '.join(map(str, figures))} and results.json.")
    return results


def run_all(options: argparse.Namespace) -> list[Result]:
    """The results of all runs, in the order of RUNS; meanwhile progress bars, or lines where there is no terminal."""
    if options.jobs == 0:
        return [execute(run, options.steps_scale, options.seeds, options.flags) for run in RUNS]
    context = multiprocessing.get_context("spawn")
    messages: multiprocessing.Queue[Message] = context.Queue()
    results: dict[Run, Result] = {}
    pool = ProcessPoolExecutor(options.jobs, context, initializer=_start_worker, initargs=(messages,))
    columns = TextColumn("{task.description:28}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[latest]}")
    with pool, Progress(*columns) as progress:
        whole = progress.add_task("all runs", total=len(RUNS), latest="")
        bars: dict[str, TaskID] = {}
        pending: dict[Future[Any], str | Run] = {
            pool.submit(execute, run, options.steps_scale, 1, options.flags): run for run in reversed(FIRST_LOOK)
        }
        # What takes longest goes first: building the clinical dataset, and the recipes with critics.
        pending |= {pool.submit(build, name): name for name in reversed(EMBEDDED)}
        started = told = time.perf_counter()
        while pending:
            for future in wait(pending, timeout=0.2, return_when=FIRST_COMPLETED).done:
                finished, outcome = pending.pop(future), future.result()
                if isinstance(finished, Run):
                    results[finished] = outcome
                    told = 0.0  # say so now
                    if finished in RUNS:
                        progress.advance(whole)
                    elif all(run in results for run in FIRST_LOOK):
                        progress.console.print("A first look, one seed each:")
                        progress.console.print(table(PENDULUM, [results[run] for run in FIRST_LOOK]))
                else:
                    ready = [run for run in reversed(RUNS) if run.dataset == finished]
                    flags = options.steps_scale, options.seeds, options.flags
                    pending |= {pool.submit(execute, run, *flags): run for run in ready}
            with suppress(queue.Empty):
                while True:
                    name, share, latest = messages.get_nowait()
                    if name not in bars:
                        bars[name] = progress.add_task(name, total=1.0, latest="")
                    progress.update(bars[name], completed=share, latest=latest, visible=share < 1)
            if not progress.console.is_terminal and time.perf_counter() - told > SILENCE:
                told = time.perf_counter()
                under_way = [task for task in progress.tasks[1:] if task.visible]
                running = [f"{task.description} {task.percentage:.0f} % {task.fields['latest']}" for task in under_way]
                done = f"{told - started:4.0f} s: {sum(run in results for run in RUNS)} of {len(RUNS)} runs done"
                progress.console.print(", ".join([done, *running]), soft_wrap=True)
    return [results[run] for run in RUNS]


def _start_worker(messages: multiprocessing.Queue[Message]) -> None:
    global _messages
    _messages = messages
    torch.set_num_threads(1)


def _tell(name: str, share: float, latest: str = "") -> None:
    if _messages is not None:
        _messages.put((name, share, latest))


def build(dataset: str) -> None:
    _tell(dataset, 0.0, "building")
    with redirect_stdout(io.StringIO()):  # its own progress bar
        load(dataset)
    _tell(dataset, 1.0)


def execute(run: Run, steps_scale: float, seeds: int, flags: str) -> Result:
    """Runs a recipe as from the command line, and sums up its seeds."""
    steps = max(2, round(steps_scale * run.steps))
    name, latest = f"{run.dataset.split('/')[0]}: {run.family}", ""

    def report(step: int, row: Row) -> None:
        nonlocal latest
        latest = f"return {row['return']:.4g}" if row else latest
        if step % 50 == 0 or step == steps:
            _tell(name, step / steps, latest)

    argv = ["--dataset", run.dataset, "--steps", str(steps), *SHARED[run.dataset].split(), *run.flags.split()]
    argv += ["--seeds", str(seeds)]
    with redirect_stdout(io.StringIO()):  # its own table
        results = importlib.import_module(run.recipe).main([*argv, *flags.split()], report)
    _tell(name, 1.0)
    command = " ".join(["python", f"docs/recipes/{run.recipe}.py", *argv])
    return summed_up(results) | {"family": run.family, "command": command}


def table(dataset: str, results: list[Result]) -> Table:
    clinical, several = dataset.startswith(SEPSIS), len(results[0]["seeds"]) > 1
    mean, best = results[0]["dataset_mean"], results[0]["dataset_best"]
    shown = Table(title=f"{dataset}: dataset mean {_number(mean)}, best {_number(best)}", title_justify="left")
    shown.add_column("algorithm", no_wrap=True)
    columns = ["survival, greedy", "survival, sampled"] if clinical else ["return"]
    columns[1:1] = ["interquartile mean"] * several
    for column in (*columns, "mean Q on data", "true return of it", "seconds"):
        shown.add_column(column, justify="right")
    for result in results:
        scores = [_pair(result["return"], result["return_standard_error"] or None)]
        if several:
            interval = result["return_iqm_interval"]
            scores += [_number(result["return_iqm"]) + (f" [{', '.join(map(_number, interval))}]" if interval else "")]
        scores += [_number(result.get("return_sampled"))] if clinical else []
        true = _pair(result.get("true_return"), result.get("true_return_standard_error"))
        shown.add_row(result["family"], *scores, _number(result.get("q_data")), true, f"{result['seconds']:.0f}")
    seeds = f"Means of {len(results[0]['seeds'])} seeds, ± standard error over seeds; intervals of 95 %."
    bounds = ", ".join(f"{name} {survival:.4f}" for name, survival in clinical_bounds().items()) if clinical else ""
    captions = [f"All survivals are exact. {bounds}"] * clinical + [seeds] * several
    shown.caption = "\n".join(captions) or None
    return shown


def clinical_bounds() -> dict[str, float]:
    """Exact survival of the policies that the learned ones stand between."""
    world = clinical_world()
    uniform = torch.full(world.clinicians.shape, 1 / world.clinicians.shape[1]).numpy()
    return {
        "clinicians": world.survival(world.clinicians),
        "uniform": world.survival(uniform),
        "optimum": world.optimum()[0],
    }


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if abs(value) < 2 else f"{value:.1f}"


def _pair(value: float | None, error: float | None) -> str:
    return _number(value) if value is None or error is None else f"{_number(value)} ± {_number(error)}"


if __name__ == "__main__":
    main()
