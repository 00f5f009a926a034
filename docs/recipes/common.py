"""What the recipes share and no algorithm cares about: the flags, the loop over batches, and the result."""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from networks import CategoricalPolicy
from processes import RANK
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from saved import save_policy
from task import Policy, Task
from tensordict import TensorDict
from torch import Tensor
from truth import SEPSIS, Follow, sampled_survival, start_return, true_return

from offline_losses import compile_update, ensemble_mean

Result = dict[str, Any]
Row = dict[str, float]
Update = Callable[[TensorDict], dict[str, Tensor]]
Critics = Callable[[Tensor, Tensor], Tensor]
Report = Callable[[int, Row], None]  # the number of updates made, and a new row of the learning curve, or nothing

CURVE_EPISODES = 10  # for each point of a learning curve
TEST_SEED = 10_000  # resets of the last evaluation, none of which the learning curve has seen


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The flags that every recipe takes."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    add = parser.add_argument
    add("--dataset", default="pendulum/mixed-v0", help="an embedded dataset, or the id of any Minari dataset")
    add("--steps", type=int, default=10_000, help="number of updates")
    add("--batch-size", type=int, default=256)
    add("--lr", type=float, default=1e-3)
    add("--hidden", type=int, default=64, help="width of the two hidden layers")
    add("--discount", type=float, default=0.99)
    add("--return-range", type=float, default=100.0, help="rewards are scaled so that the data's returns span this")
    add("--raw-rewards", action="store_true", help="leave them as recorded, whatever --return-range says")
    add("--evaluations", type=int, default=10, help="points of the learning curve")
    add(
        "--checkpoints",
        type=int,
        default=5,
        help="last points of the curve whose mean is shown too",
    )
    add("--episodes", type=int, default=100, help="episodes of the last evaluation")
    add("--evaluation-seed", type=int, help="of its first episode; if not given, 10 000 more than --seed")
    add("--probe", type=int, default=256, help="rows of the data on which Q is compared with the truth")
    add("--seed", type=int, default=0)
    add("--device", default="cpu")
    add("--compile", action="store_true", help="compile the update as a whole")
    add("--out", type=Path, help="folder for result.json, metrics.csv and policy.pt")
    return parser


def minimize(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def draw(data: TensorDict, options: argparse.Namespace, generator: torch.Generator) -> TensorDict:
    """A random batch, of this process alone."""
    return data[torch.randint(len(data), (options.batch_size,), generator=generator, device=options.device)]


def train(
    name: str,
    task: Task,
    options: argparse.Namespace,
    update: Update,
    *,
    policy: Policy,
    critics: Critics | None = None,
    follow: Follow | None = None,
    prepare: Callable[[int], None] | None = None,
    report: Report | None = None,
) -> Result:
    """Runs `update` on random batches; returns, shows and (with --out) saves what was measured.

    Args:
        policy: what is deployed and evaluated.
        critics: Q `[E, *batch]` of observations and actions, if the algorithm has any.
        follow: the policy that Q values, if it is not the deployed one: its actions, and what Q counts for taking
            them on top of the reward.
        prepare: called before every update with its number, for what is no part of a compiled one.
        report: called after every update; a progress bar if there is none.
    """
    data, generator = task.data, torch.Generator(options.device).manual_seed(options.seed + 2**20 * RANK)
    every, curve_episodes = max(1, options.steps // options.evaluations), min(options.episodes, CURVE_EPISODES)
    try:  # an environment that is missing shows before the training, not after it
        start_return(task.dataset, task.deployed(deepcopy(policy)), 1, 0)
    except (ImportError, ValueError) as error:
        raise SystemExit(str(error)) from error
    if options.compile:
        update = compile_update(update)
    history: list[Row] = []
    losses: dict[str, Tensor] = {}  # summed since the last row: a list of small tensors would fragment the memory
    summed = 0
    seconds = 0.0
    with nullcontext(report) if report else _bar(name, options.steps) as shown:
        for step in range(1, options.steps + 1):
            started, row = time.perf_counter(), {}
            if prepare:
                prepare(step)
            batch = draw(data, options, generator)
            losses = {key: losses.get(key, 0.0) + loss.detach() for key, loss in update(batch).items()}
            summed += 1
            seconds += time.perf_counter() - started
            if step % every == 0 or step == options.steps:
                row = {key: loss.item() / summed for key, loss in losses.items()}
                row |= {"step": step, "return": start_return(task.dataset, task.deployed(policy), curve_episodes, 0)[0]}
                row |= {} if critics is None else {"q_data": _mean_q(task, critics)}
                history.append(row)
                losses, summed = {}, 0
            shown(step, row)

    seed = TEST_SEED + options.seed if options.evaluation_seed is None else options.evaluation_seed
    test = start_return(task.dataset, task.deployed(policy), options.episodes, seed)
    result: Result = {"recipe": name, "dataset": task.dataset, "return": test[0], "return_standard_error": test[1]}
    result["return_of_checkpoints"] = fmean(row["return"] for row in history[-options.checkpoints :])
    result |= {"dataset_mean": task.returns.mean().item(), "dataset_best": task.returns.max().item()}
    if task.dataset.startswith(SEPSIS) and isinstance(policy, CategoricalPolicy):
        result["return_sampled"] = sampled_survival(
            lambda observation: policy.probability(task.encoding.observe(observation))
        )
    if critics is not None:
        result |= {"q_data": _mean_q(task, critics)} | _truth(task, follow or _certain(policy), options.discount)
    result |= {"seconds": seconds, "updates_per_second": options.steps / seconds, "history": history}
    result["options"] = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    if RANK == 0:
        _show(result)
    if options.out and RANK == 0:
        _save(result, options.out)
        save_policy(options.out / "policy.pt", name, task, policy)
    return result


def _mean_q(task: Task, critics: Critics) -> float:
    """Mean over the probe of the critics' mean, in the environment's units."""
    encode, probe = task.encoding, task.probe
    observation, action = encode.observe(probe["observation"]), encode.from_environment(probe["action"])
    with torch.no_grad():
        return ensemble_mean(critics(observation, action.to(observation.device))).mean().item() / task.scale


def _truth(task: Task, follow: Follow, discount: float) -> Result:
    def in_environment(observation: Tensor) -> tuple[Tensor, Tensor]:
        action, extra = follow(task.encoding.observe(observation))
        return task.encoding.to_environment(action), extra.cpu() / task.scale

    true = true_return(task.dataset, task.probe["observation"], task.probe["action"], in_environment, discount)
    if true is None:
        return {"true_return": None, "true_return_standard_error": None}
    return {"true_return": true.mean(), "true_return_standard_error": true.std() / math.sqrt(len(true))}


def _certain(policy: Policy) -> Follow:
    """The deployed policy; Q counts nothing but the reward."""
    return lambda observation: (policy.act(observation), torch.zeros(len(observation)))


def _show(result: Result) -> None:
    table = Table("", "", title=f"{result['recipe']} on {result['dataset']}", show_header=False)
    table.add_row("return", f"{result['return']:.4g} ± {result['return_standard_error']:.2g}")
    last = min(result["options"]["checkpoints"], len(result["history"]))
    table.add_row(f"mean of the last checkpoints ({last})", f"{result['return_of_checkpoints']:.4g}")
    if "return_sampled" in result:
        table.add_row("return, actions sampled", f"{result['return_sampled']:.4g}")
    table.add_row("dataset, mean and best", f"{result['dataset_mean']:.4g}, {result['dataset_best']:.4g}")
    if result.get("true_return") is not None:
        table.add_row("Q on the data's actions", f"{result['q_data']:.4g}")
        table.add_row(
            "what they truly return", f"{result['true_return']:.4g} ± {result['true_return_standard_error']:.2g}"
        )
    table.add_row("training", f"{result['seconds']:.1f} s, {result['updates_per_second']:.0f} updates/s")
    Console().print(table)


def _save(result: Result, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(to_json(result))
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, result["history"][0])
        writer.writeheader()
        writer.writerows(result["history"])


def to_json(results: Any) -> str:
    """Indented JSON, with null for what is not a number."""
    strict = json.loads(json.dumps(results), parse_constant=lambda _: None)
    return json.dumps(strict, indent=1) + "\n"


@contextmanager
def _bar(name: str, steps: int) -> Iterator[Report]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[latest]}")) as progress:
        shown = progress.add_task(name, total=steps, latest="")

        def report(step: int, row: Row) -> None:
            latest = {"latest": "  ".join(f"{key} {value:.4g}" for key, value in row.items() if key != "step")}
            progress.update(shown, completed=step, **(latest if row else {}))

        yield report
