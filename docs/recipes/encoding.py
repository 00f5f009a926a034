"""From what an environment shows and takes to what networks take and say, and back; training and evaluation share it.

Observations become one vector: boxes as their numbers, normalized; one of n as n numbers, 0 but for a 1. Actions are
either continuous, and then one vector in [-1, 1], or a choice, and then the number of one among all joint choices.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from offline_losses import ObservationStatistics, normalize_observation, observation_statistics

CHOICES = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
MOST_NUMBERS = 4096  # of an observation
MOST_ACTIONS = 1024  # to choose among: networks have an output for each
BOUNDLESS = 1e9  # bounds this far out are none


class Unserved(ValueError):
    """The recipes cannot learn in such a space; the message says what to do."""


def leaves(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    """The boxes and choices that a space is made of, in one order."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        children = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        return [leaf for child in children for leaf in leaves(child)]
    if isinstance(space, (spaces.Box, *CHOICES)):
        return [space]
    raise Unserved(f"{space} holds no arrays of a fixed shape. Record them as arrays, or leave such entries out.")


def read_part(space: spaces.Space[Any], rows: Any) -> spaces.Space[Any]:
    """The space without the entries of dicts that were not read, such as texts."""
    if not isinstance(space, spaces.Dict):
        return space
    there = set(rows.keys())
    return spaces.Dict({key: read_part(child, rows[key]) for key, child in space.spaces.items() if key in there})


def taken_apart(space: spaces.Space[Any], rows: Any) -> Iterator[Tensor]:
    """The arrays `[B, ...]` of rows that were recorded (nested entries of a TensorDict) or seen (dicts, tuples)."""
    if isinstance(space, spaces.Dict):
        for key, child in space.spaces.items():
            yield from taken_apart(child, rows[key])
    elif isinstance(space, spaces.Tuple):
        for number, child in enumerate(space.spaces):
            yield from taken_apart(child, rows[number] if isinstance(rows, tuple) else rows[str(number)])
    else:
        yield torch.as_tensor(rows)


def put_together(space: spaces.Space[Any], arrays: Iterator[Tensor]) -> Any:
    """The rows that these arrays are taken from."""
    if isinstance(space, spaces.Dict):
        return {key: put_together(child, arrays) for key, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(put_together(child, arrays) for child in space.spaces)
    return next(arrays)


def vector(space: spaces.Space[Any], rows: Any) -> Tensor:
    """`[B, D]` of observations: numbers as they are, choices as zeros and a one."""
    parts = []
    for leaf, array in zip(leaves(space), taken_apart(space, rows), strict=True):
        array = array.reshape(len(array), -1)
        if isinstance(leaf, (spaces.Discrete, spaces.MultiDiscrete)):
            digits = (array.long() - _start(leaf).to(array.device)).unsqueeze(-1)
            for digit, n in zip(digits.unbind(1), counts(leaf), strict=True):
                parts.append(torch.zeros(len(array), n, device=array.device).scatter_(1, digit, 1.0))
        else:
            parts.append(array)
    return torch.cat([part.float() for part in parts], -1)


def counts(leaf: spaces.Space[Any]) -> list[int]:
    """Of how many each choice of the leaf is one."""
    if isinstance(leaf, spaces.Discrete):
        return [int(leaf.n)]
    if isinstance(leaf, spaces.MultiDiscrete):
        return [int(n) for n in leaf.nvec.ravel()]
    return [2] * math.prod(leaf.shape or ())


def _start(leaf: spaces.Space[Any]) -> Tensor:
    """The number of the first of each choice."""
    start = leaf.start if isinstance(leaf, (spaces.Discrete, spaces.MultiDiscrete)) else np.zeros(len(counts(leaf)))
    return torch.as_tensor(np.asarray(start).ravel()).long()


@dataclass
class Encoding:
    """What networks see of an environment, and the way back.

    Attributes:
        statistics: mean and deviation of the vectors of observations; 0 and 1 - ε where a number is no measurement.
        bounds: of the vectors of continuous actions, `[2, A]`: the box's, or where it has none the data's own range.
    """

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    statistics: ObservationStatistics
    bounds: Tensor

    @property
    def discrete(self) -> bool:
        return isinstance(leaves(self.action_space)[0], CHOICES)

    @property
    def observation_size(self) -> int:
        return len(self.statistics.mean)

    @property
    def action_size(self) -> int:
        """Dimensions of an action, or the number of actions."""
        return math.prod(self._counts) if self.discrete else self.bounds.shape[1]

    @property
    def _counts(self) -> list[int]:
        return [n for leaf in leaves(self.action_space) for n in counts(leaf)]

    def observe(self, observation: Any) -> Tensor:
        """`[B, D]` of observations of the environment, or of the data."""
        rows = vector(self.observation_space, observation)
        return normalize_observation(rows.to(self.statistics.mean), *self.statistics)

    def from_environment(self, action: Any) -> Tensor:
        """`[B, A]` in [-1, 1], or numbers `[B]`; a dimension that cannot be moved is 0."""
        arrays = [array.reshape(len(array), -1) for array in taken_apart(self.action_space, action)]
        if self.discrete:
            number = torch.zeros(len(arrays[0]), dtype=torch.long, device=arrays[0].device)
            digits = torch.cat(
                [a.long() - _start(x) for a, x in zip(arrays, leaves(self.action_space), strict=True)], -1
            )
            for digit, n in zip(digits.unbind(-1), self._counts, strict=True):
                number = number * n + digit
            return number
        low, high = self.bounds
        span = torch.where(high > low, high - low, 1.0)
        return torch.where(high > low, 2 * (torch.cat(arrays, -1).to(low) - low) / span - 1, 0.0)

    def to_environment(self, action: Tensor) -> Any:
        """Rows of the environment's action space, as tensors on the CPU."""
        action = action.detach().cpu()
        parts = []
        if self.discrete:
            for n in reversed(self._counts):
                parts.append(action % n)
                action = action.div(n, rounding_mode="floor")
            flat = torch.stack(parts[::-1], -1)
        else:
            low, high = self.bounds
            flat = (low + (action + 1) / 2 * (high - low)).clamp(low, high)
        arrays = []
        for leaf in leaves(self.action_space):
            size = math.prod(leaf.shape or ())
            array, flat = flat[:, :size], flat[:, size:]
            array = array + _start(leaf) if isinstance(leaf, CHOICES) else array
            whole = not isinstance(leaf, CHOICES) and leaf.dtype.kind != "f"
            array = (array.round() if whole else array).reshape(len(array), *(leaf.shape or ()))
            arrays.append(array.to(torch.as_tensor(np.zeros((), leaf.dtype)).dtype))
        return put_together(self.action_space, iter(arrays))


def encoding_of(
    observation_space: spaces.Space[Any], action_space: spaces.Space[Any], observation: Any, action: Any
) -> Encoding:
    """The encoding of a dataset with these spaces and columns; refused where the recipes cannot learn."""
    kinds = {isinstance(leaf, CHOICES) for leaf in leaves(action_space)}
    if len(kinds) > 1:
        raise Unserved(
            f"its actions are continuous in part and choices in part ({action_space}): no recipe takes both. Record a "
            "dataset in which one of the two is left to the environment, or made a number of fixed steps."
        )
    measured = torch.cat(
        [torch.full((_width(leaf),), isinstance(leaf, spaces.Box)) for leaf in leaves(observation_space)]
    )
    size = len(measured)
    if size > MOST_NUMBERS:
        raise Unserved(
            f"its observations are {size} numbers, as images are, and the recipes' small networks take at most "
            f"{MOST_NUMBERS}. Record features of them, such as the output of a pretrained encoder, in their place."
        )
    choices = math.prod(n for leaf in leaves(action_space) if isinstance(leaf, CHOICES) for n in counts(leaf))
    if choices > MOST_ACTIONS:
        raise Unserved(
            f"its actions are {choices} joint choices ({action_space}), and the recipes, whose networks have an output "
            f"for each, take at most {MOST_ACTIONS}. Record fewer or coarser ones."
        )
    mean, std = observation_statistics(vector(observation_space, observation))
    statistics = ObservationStatistics(mean.where(measured, 0.0), std.where(measured, 1 - 1e-3))
    return Encoding(observation_space, action_space, statistics, _bounds(action_space, action))


def _width(leaf: spaces.Space[Any]) -> int:
    """Numbers that a leaf of an observation becomes."""
    return sum(counts(leaf)) if isinstance(leaf, CHOICES[:2]) else math.prod(leaf.shape or ())


def _bounds(space: spaces.Space[Any], action: Any) -> Tensor:
    if isinstance(leaves(space)[0], CHOICES):
        return torch.empty(2, 0)
    rows = torch.cat([array.reshape(len(array), -1).float() for array in taken_apart(space, action)], -1)
    low, high = (
        torch.cat([torch.as_tensor(np.asarray(getattr(leaf, end), np.float32)).ravel() for leaf in leaves(space)])
        for end in ("low", "high")
    )
    missing = (low <= -BOUNDLESS) | (high >= BOUNDLESS)
    if missing.any():
        warnings.warn(
            f"{space} leaves {int(missing.sum())} of {len(missing)} dimensions of an action without a bound: "
            "the policy keeps to the range of the data's actions there.",
            stacklevel=3,
        )
    low, high = torch.where(low <= -BOUNDLESS, rows.amin(0), low), torch.where(high >= BOUNDLESS, rows.amax(0), high)
    return torch.stack([low, high])
