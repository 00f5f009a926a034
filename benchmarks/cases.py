"""What is timed: every function at every size, the shapes that a promise is about, and ten million steps of data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import torch
from ledger import BENCHMARK_SIZES, CASES, CRITICS, Case, Values
from numpy.typing import NDArray
from torch import Tensor

import offline_losses
from benchmarks import peers
from benchmarks.timing import (
    MODES,
    PATIENCE,
    Maker,
    Variant,
    Variants,
    Workload,
    clone_floor,
    compiled,
    maker,
    shape_text,
)
from offline_losses import fused

SIZES = {
    "small": (256, 65_536),
    "full": (256, 4_096, 65_536, 1_048_576, 4_194_304),
}
CQL = "cql_logsumexp_penalty"
CQL_SHAPES = ((256, 30), (4096, 18), (512, 50_257))
FLAGGED = 0.01  # one step in a hundred is the end of something
PLAIN = {case.row.name: case for case in reversed(CASES)}
"""Each row of the ledger with its required arguments alone."""


def grid(sizes: Sequence[int], with_packages: bool = False) -> Iterator[Workload]:
    """Every function at every number of elements, forward and with its gradient."""
    for case in reversed(PLAIN.values()):
        row = prod(BENCHMARK_SIZES[axis] for axis in _first(case).axes) * (CRITICS if case.leads(_first(case)) else 1)
        for elements in sizes:
            yield from _workloads("grid", case, max(1, elements // row), BENCHMARK_SIZES, {}, with_packages)


def extras(with_packages: bool = False) -> Iterator[Workload]:
    """A few actions, many candidates, a vocabulary of actions; and a thousand steps."""
    for batch, actions in CQL_SHAPES:
        yield from _workloads("extra", PLAIN[CQL], batch, {"N": actions}, {"temperature": 1.0}, with_packages)
        yield from _of_logits(batch, actions)
    yield from _workloads("extra", PLAIN["generalized_advantage"], 256, {"T": 1000}, {}, with_packages)


def _workloads(
    group: str, case: Case, batch: int, sizes: Mapping[str, int], knobs: Mapping[str, float], with_packages: bool
) -> Iterator[Workload]:
    name, first = case.row.name, _first(case)
    shape = (*((CRITICS,) if case.leads(first) else ()), batch, *(sizes[axis] for axis in first.axes))

    for mode in MODES[:1] if case.row.detached else MODES:

        def variants(device: torch.device, mode: str = mode) -> Variants:
            arguments = {**_arguments(case, batch, sizes, mode, device), **knobs}
            made = {"eager": maker(case.row.function, arguments, mode)}
            made["compile"] = maker(compiled(case.row.function), arguments, mode, patience=PATIENCE)
            made["fused"] = maker(getattr(fused, name), arguments, mode)
            made |= peers.of_function(name, arguments, mode, device, with_packages)
            return made | {"floor": lambda: clone_floor(arguments[_name(case, first)])}

        yield Workload(group, name, shape_text(shape), mode, prod(shape), variants)


def _of_logits(batch: int, actions: int) -> Iterator[Workload]:
    """The discrete penalty as a loop has it: one tensor of logits, and the entry of the data's action taken out."""

    def of(penalty: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda q, action: penalty(q, q.gather(-1, action.unsqueeze(-1)).squeeze(-1))

    eager = of(offline_losses.cql_logsumexp_penalty)
    functions = {"eager": eager, "compile": torch.compile(eager, dynamic=True)}
    functions |= {"fused": of(fused.cql_logsumexp_penalty), "cross_entropy": peers.cross_entropy}
    for mode in MODES:

        def variants(device: torch.device, mode: str = mode) -> Variants:
            generator = torch.Generator().manual_seed(0)
            q = torch.randn(batch, actions, generator=generator).to(device).requires_grad_(mode != "forward")
            action = torch.randint(actions, (batch,), generator=generator).to(device)
            made = {key: maker(function, {"q": q, "action": action}, mode) for key, function in functions.items()}
            return made | {"floor": lambda: clone_floor(q)}

        yield Workload("extra", f"{CQL} of logits", shape_text((batch, actions)), mode, batch * actions, variants)


def _arguments(case: Case, batch: int, sizes: Mapping[str, int], mode: str, device: torch.device) -> dict[str, Any]:
    drawn = case.build((batch,), torch.float32, sizes=sizes, flagged=FLAGGED)
    values = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in drawn.items()}
    if mode != "forward":
        for name, argument in case.of(Values).items():
            values[name].requires_grad_(argument.gradient)
    return values


def _first(case: Case) -> Values:
    """The first tensor that has a batch; its elements are the size of a row of the grid."""
    return next(argument for argument in case.of(Values).values() if argument.batched)


def _name(case: Case, wanted: Values) -> str:
    return next(name for name, argument in case.arguments.items() if argument is wanted)


STEPS = 10_000_000
LOOPED_STEPS, TORCHRL_STEPS = 100_000, 1_000_000  # of those that need minutes for all; their time is a straight line
EPISODE = (500, 1500)
DISCOUNT = 0.99
FRACTION = 0.1


def datasets(with_packages: bool = False) -> Iterator[Workload]:
    knobs = {"discounted_return": {"discount": DISCOUNT}, "return_filter": {"fraction": FRACTION}}
    loops = {"discounted_return": loop_returns, "return_filter": loop_filter}
    for name, arguments in knobs.items():

        def variants(device: torch.device, name: str = name, knob: dict[str, float] = arguments) -> Variants:
            reward, done = episodes(STEPS, device)
            taken = {"reward": reward, "done": done, **knob}
            made = {"eager": maker(getattr(offline_losses, name), taken, MODES[0])}
            made["fused"] = maker(getattr(fused, name), taken, MODES[0])
            made["numpy loop"] = _of_part(loops[name], LOOPED_STEPS, reward.cpu().numpy(), done.cpu().numpy())
            if with_packages and name == "discounted_return":
                made["torchrl"] = _of_part(partial(peers.reward_to_go, discount=DISCOUNT), TORCHRL_STEPS, reward, done)
            return made | {"floor": lambda: clone_floor(reward)}

        yield Workload("returns", name, shape_text((STEPS,)), MODES[0], STEPS, variants)


def episodes(steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rewards, and True at the end of each episode, of about a thousand steps."""
    generator = torch.Generator().manual_seed(0)
    ends = torch.randint(*EPISODE, (steps // EPISODE[0],), generator=generator).cumsum(0) - 1
    done = torch.zeros(steps, dtype=torch.bool)
    done[ends[ends < steps]] = True
    done[-1] = True
    return torch.randn(steps, generator=generator).to(device), done.to(device)


def loop_returns(reward: NDArray[np.float32], done: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Backwards through each episode, step by step."""
    result = np.zeros_like(reward)
    for start, end in _bounds(done):
        following = 0.0
        for step in reversed(range(start, end)):
            following = reward[step] + DISCOUNT * following
            result[step] = following
    return result


def loop_filter(reward: NDArray[np.float32], done: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The episodes with the highest sum of rewards, each added up step by step."""
    bounds, scores = _bounds(done), []
    for start, end in bounds:
        score = 0.0
        for step in range(start, end):
            score += float(reward[step])
        scores.append(score)
    kept = np.zeros_like(done)
    for episode in np.argsort(scores)[::-1][: max(1, round(FRACTION * len(bounds)))]:
        kept[slice(*bounds[episode])] = True
    return kept


def _of_part(function: Callable[[Any, Any], Any], steps: int, reward: Any, done: Any) -> Maker:
    """On the first part of the same data, with its time scaled to the whole."""
    note = f"timed on {steps:,} steps, scaled to {len(reward):,}"
    run = partial(function, reward[:steps], done[:steps])
    return lambda: Variant(run, work=steps / len(reward), tolerance=None, note=note)


def _bounds(done: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First step and end of each episode; the last one ends with the data."""
    ends = [*(np.flatnonzero(done[:-1]) + 1).tolist(), len(done)]
    return list(pairwise([0, *ends]))
