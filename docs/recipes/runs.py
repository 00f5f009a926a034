"""Several runs of one recipe side by side: seeds, and values of what is swept, on a leading axis of everything.

Parameters, batches, noise and losses have the runs first, `[R, ...]`; a single run is `R = 1`. What is drawn for one
run does not depend on the others: each has generators of its own, so that the run of a seed is the same in any company.
"""

from __future__ import annotations

import argparse
import math
from argparse import Namespace
from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import product
from typing import Any, TypeVar

import torch
from flags import number
from torch import nn
from torch.func import vmap

Made = TypeVar("Made")
Network = TypeVar("Network", bound=nn.Module)


def knob(
    parser: argparse.ArgumentParser, flag: str, default: float, help: str, bounds: str = "(]", above: float = math.inf
) -> None:
    """A hyper-parameter between zero and `above` that may have several values, each trained with every seed."""

    parser.add_argument(
        flag, type=number(bounds, above), nargs="+", default=[default], help=f"{help}; several values are swept"
    )


def side_by_side(options: Namespace) -> Namespace:
    """The options with `runs`, those of each run: all seeds for every combination of the values that are swept.

    A knob of one value is that number, and one that is swept a tensor `[R, 1]`, for a batch `[R, B]`.
    """
    knobs = {name: values for name, values in vars(options).items() if isinstance(values, list)}
    seeds = range(options.seed, options.seed + options.seeds)
    runs = [
        Namespace(**vars(options) | dict(zip(knobs, values, strict=True)) | {"seed": seed, "seeds": 1})
        for values in product(*knobs.values())
        for seed in seeds
    ]
    spread = Namespace(**vars(options), runs=runs, swept=[name for name, values in knobs.items() if len(values) > 1])
    for name, (first, *others) in knobs.items():
        column = torch.tensor([[getattr(run, name)] for run in runs], device=options.device)
        setattr(spread, name, column if others else first)
    return spread


class Seeds:
    """The random numbers of each run, before the training: those that follow its own seed."""

    def __init__(self, options: Namespace) -> None:
        self.device = options.device
        self.states: list[torch.Tensor] = []
        for run in options.runs:
            torch.manual_seed(run.seed)
            self.states.append(torch.get_rng_state())

    def each(self, make: Callable[..., Made], *arguments: Any) -> list[Made]:
        """What `make(*arguments)` returns for each run."""
        made = []
        for i, state in enumerate(self.states):
            torch.set_rng_state(state)
            made.append(make(*arguments))
            self.states[i] = torch.get_rng_state()
        return made

    def build(self, make: Callable[..., Network], *arguments: Any) -> Network:
        """The networks of all runs as one, whose parameters are `[R, ...]`."""
        return joined(self.each(make, *arguments), torch.cat).to(self.device)


def joined(networks: Sequence[Network], join: Callable[[list[torch.Tensor]], torch.Tensor]) -> Network:
    """The first network, with the parameters of all joined."""
    for name, parameter in networks[0].named_parameters():
        parameter.data = join([network.get_parameter(name).detach() for network in networks])
    return networks[0]


def run_of(network: Network, run: int) -> Network:
    """The network of one run alone, a copy."""
    alone = deepcopy(network)
    for parameter in alone.parameters():
        parameter.data = parameter.data[run : run + 1].clone()
    return alone


def each_run(function: Callable[..., torch.Tensor], *batches: torch.Tensor, **knobs: Any) -> torch.Tensor:
    """`function` of each run alone, stacked `[R, ...]`; for what looks at a whole batch, or takes a scalar parameter.

    Batches are `[R, ...]`, knobs numbers, or tensors `[R]` or `[R, 1]` of a scalar for each run.
    """
    scalars = {name: knob.flatten() for name, knob in knobs.items() if isinstance(knob, torch.Tensor)}
    numbers = {name: knob for name, knob in knobs.items() if name not in scalars}
    return vmap(lambda own, *rows: function(*rows, **own, **numbers))(scalars, *batches)
