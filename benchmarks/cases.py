"""What is timed: every function of the ledger at every size, and the few shapes that a promise is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import torch
from ledger import BENCHMARK_SIZES, CASES, CRITICS, Case, Values
from torch import Tensor

import offline_losses
from benchmarks import peers
from benchmarks.floors import clone_floor
from benchmarks.variants import MODES, PATIENCE, Variants, Workload, compiled, maker, shape_text
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
