"""What the recipes share and no algorithm cares about: the flags, the loop over batches, and the result."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from flags import count, from_zero, number
from networks import CategoricalPolicy
from processes import RANK
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from runs import run_of, side_by_side
from saved import save_policy
from summary import Result, folder_of, save, show
from task import Policy, Task
from tensordict import TensorDict
from torch import Tensor
from truth import SEPSIS, Follow, sampled_survival, start_return, true_return

from offline_losses import compile_update, ensemble_mean

Row = dict[str, float]
Noise = dict[str, tuple[int, ...]]
Update = Callable[[TensorDict], dict[str, Tensor]]
Critics = Callable[[Tensor, Tensor], Tensor]
FollowPolicy = Callable[[Any, Tensor], tuple[Tensor, Tensor]]
Report = Callable[[int, Row], None]  # the number of updates made, and a new row of the learning curve, or nothing

CURVE_EPISODES = 10  # for each point of a learning curve
TEST_SEED = 10_000  # resets of the last evaluation, none of which the learning curve has seen


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The flags that every recipe takes."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    add = parser.add_argument
    add("--dataset", default="pendulum/mixed-v0", help="an embedded dataset, or the id of any Minari dataset")
    add("--steps", type=count, default=10_000, help="number of updates")
    add("--batch-size", type=count, default=256)
    add("--lr", type=number("()"), default=1e-3)
    add("--hidden", type=count, default=64, help="width of the two hidden layers")
    add("--discount", type=number("[]", 1), default=0.99)
    add(
        "--return-range",
        type=number("()"),
        default=100.0,
        help="rewards are scaled so that the data's returns span this",
    )
    add("--raw-rewards", action="store_true", help="leave them as recorded, whatever --return-range says")
    add("--evaluations", type=count, default=10, help="points of the learning curve")
    add(
        "--checkpoints",
        type=count,
        default=5,
        help="last points of the curve whose mean is shown too",
    )
    add("--episodes", type=count, default=100, help="episodes of the last evaluation")
    add("--evaluation-seed", type=from_zero, help="of its first episode; if not given, 10 000 more than --seed")
    add("--probe", type=count, default=256, help="rows of the data on which Q is compared with the truth")
    add("--seed", type=from_zero, default=0, help="of the first run")
    add("--seeds", type=count, default=1, help="number of runs side by side, with the seeds from --seed on")
    add("--device", default="cpu")
    add("--compile", action="store_true", help="compile the update as a whole")
    add("--out", type=Path, help="folder for result.json, metrics.csv and policy.pt")
    return parser


def minimize(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step down the losses `[R]`: in their sum no run moves the parameters of another."""
    optimizer.zero_grad()
    loss.sum().backward()
    optimizer.step()


def draw(data: TensorDict, options: argparse.Namespace, generators: list[torch.Generator]) -> TensorDict:
    """A random batch for each run, `[R, B]`, of this process alone."""
    size, device = (options.batch_size,), options.device
    rows = [torch.randint(len(data), size, generator=generator, device=device) for generator in generators]
    return data[torch.stack(rows)]


def batches(data: TensorDict, options: argparse.Namespace, normal: Noise, uniform: Noise) -> Iterator[TensorDict]:
    """Random batches with columns of noise, all that is random in an update; each run has a generator of its own."""
    device = options.device
    generators = [torch.Generator(device).manual_seed(run.seed + 2**20 * RANK) for run in options.runs]
    noise = [(torch.randn, *column) for column in normal.items()] + [
        (torch.rand, *column) for column in uniform.items()
    ]
    while True:
        batch = draw(data, options, generators)
        for make, key, size in noise:
            shape = (options.batch_size, *size)
            batch[key] = torch.stack([make(shape, generator=each, device=device) for each in generators])
        yield batch


def train(
    name: str,
    task: Task,
    options: argparse.Namespace,
    update: Update,
    *,
    policy: Policy,
    critics: Critics | None = None,
    follow: FollowPolicy | None = None,
    normal: Noise | None = None,
    uniform: Noise | None = None,
    prepare: Callable[[int], None] | None = None,
    report: Report | None = None,
) -> list[Result]:
    """Runs `update` on random batches; returns, shows and (with --out) saves what was measured of each run.

    Args:
        update: takes a batch `[R, B]`, and returns losses `[R]`.
        policy: what is deployed and evaluated.
        critics: Q `[E, R, *batch]` of observations and actions, if the algorithm has any.
        follow: the policy that Q values, if it is not the deployed one: for the policy of one run and observations its
            actions, and what Q counts for taking them on top of the reward.
        normal: noise that every batch brings: the names of its columns, and their sizes behind `[R, B]`.
        uniform: likewise, numbers in [0, 1).
        prepare: called before every update with its number, for what is no part of a compiled one.
        report: called after every update; a progress bar if there is none.
    """
    runs, drawn = options.runs, batches(task.data, options, normal or {}, uniform or {})
    every, curve_episodes = max(1, options.steps // options.evaluations), min(options.episodes, CURVE_EPISODES)

    def alone(run: int) -> Policy:
        return run_of(policy, run) if len(runs) > 1 else policy

    def returned(run: int, episodes: int, seed: int) -> tuple[float, float]:
        return start_return(task.dataset, task.deployed(alone(run)), episodes, seed)

    try:  # an environment that is missing shows before the training, not after it
        start_return(task.dataset, task.deployed(deepcopy(alone(0))), 1, 0)
    except (ImportError, ValueError) as error:
        raise SystemExit(str(error)) from error
    if options.compile:
        update = compile_update(update)
    history: list[list[Row]] = [[] for _ in runs]
    losses: dict[str, Tensor] = {}  # summed since the last row: a list of small tensors would fragment the memory
    summed = 0
    seconds = 0.0
    with nullcontext(report) if report else _bar(name, options.steps) as shown:
        for step in range(1, options.steps + 1):
            started, row = time.perf_counter(), {}
            if prepare:
                prepare(step)
            losses = {key: losses.get(key, 0.0) + loss.detach() for key, loss in update(next(drawn)).items()}
            summed += 1
            seconds += time.perf_counter() - started
            if step % every == 0 or step == options.steps:
                means = {key: (loss / summed).tolist() for key, loss in losses.items()}
                q = None if critics is None else _mean_q(task, critics)
                for i, curve in enumerate(history):
                    curve.append({key: loss[i] for key, loss in means.items()} | {"step": step})
                    curve[-1]["return"] = returned(i, curve_episodes, 0)[0]
                    curve[-1] |= {} if q is None else {"q_data": q[i]}
                losses, summed = {}, 0
                row = {key: fmean(curve[-1][key] for curve in history) for key in history[0][-1]}
            shown(step, row)

    results, q = [], None if critics is None else _mean_q(task, critics)
    for i, (run, curve) in enumerate(zip(runs, history, strict=True)):
        torch.manual_seed(run.seed)
        test = returned(
            i, options.episodes, TEST_SEED + run.seed if run.evaluation_seed is None else run.evaluation_seed
        )
        setting = {key: getattr(run, key) for key in options.swept}
        result: Result = {"recipe": name, "dataset": task.dataset, "setting": setting}
        result |= {"return": test[0], "return_standard_error": test[1]}
        result["return_of_checkpoints"] = fmean(row["return"] for row in curve[-options.checkpoints :])
        result |= {"dataset_mean": task.returns.mean().item(), "dataset_best": task.returns.max().item()}
        if task.dataset.startswith(SEPSIS) and isinstance(policy, CategoricalPolicy):
            chosen = alone(i).probability
            result["return_sampled"] = sampled_survival(lambda rows, p=chosen: p(task.encoding.observe(rows)))
        if q is not None:
            result |= {"q_data": q[i]} | _truth(task, i, partial(follow or _certain, alone(i)), options.discount)
        result |= {"seconds": seconds, "updates_per_second": options.steps / seconds, "history": curve}
        shown_options = {key: str(value) if isinstance(value, Path) else value for key, value in vars(run).items()}
        results.append(result | {"options": shown_options})
        if options.out and RANK == 0:
            folder = folder_of(run, setting, options)
            save(results[-1], folder)
            save_policy(folder / "policy.pt", name, task, alone(i))
    if RANK == 0:
        show(results)
    return results


def one_by_one(learn: Callable[[argparse.Namespace], list[Result]], options: argparse.Namespace) -> list[Result]:
    """The runs one after the other, for networks that have no axis of runs, and a summary of several."""
    results = []
    for run in options.runs:
        folder = options.out and folder_of(run, {}, options)
        results += learn(side_by_side(argparse.Namespace(**vars(run) | {"out": folder})))
    if len(results) > 1 and RANK == 0:
        show(results)
    return results


def _mean_q(task: Task, critics: Critics) -> list[float]:
    """Mean over each run's probe of the critics' mean, in the environment's units."""
    encode, probe = task.encoding, task.probe
    observation, action = (
        part.unflatten(0, probe.shape)
        for part in (
            encode.observe(probe["observation"].flatten(0, 1)),
            encode.from_environment(probe["action"].flatten(0, 1)),
        )
    )
    with torch.no_grad():
        q = ensemble_mean(critics(observation, action.to(observation.device)))
    return (q.mean(-1) / task.scale).tolist()


def _truth(task: Task, run: int, follow: Follow, discount: float) -> Result:
    probe = task.probe[run]

    def in_environment(observation: Tensor) -> tuple[Tensor, Tensor]:
        action, extra = follow(task.encoding.observe(observation))
        return task.encoding.to_environment(action), extra.cpu() / task.scale

    true = true_return(task.dataset, probe["observation"], probe["action"], in_environment, discount)
    if true is None:
        return {"true_return": None, "true_return_standard_error": None}
    return {"true_return": true.mean(), "true_return_standard_error": true.std() / math.sqrt(len(true))}


def _certain(policy: Policy, observation: Tensor) -> tuple[Tensor, Tensor]:
    """The deployed policy; Q counts nothing but the reward."""
    return policy.act(observation), torch.zeros(len(observation))


@contextmanager
def _bar(name: str, steps: int) -> Iterator[Report]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[latest]}")) as progress:
        shown = progress.add_task(name, total=steps, latest="")

        def report(step: int, row: Row) -> None:
            latest = {"latest": "  ".join(f"{key} {value:.4g}" for key, value in row.items() if key != "step")}
            progress.update(shown, completed=step, **(latest if row else {}))

        yield report
