"""Steps as a format gives them, and what all formats ask of flags and of episodes that are joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import numpy as np

from offline_losses.adapters.entries import Array, Path, cast
from offline_losses.adapters.rows import Joined, Rows, Whole

Last = Literal["drop", "keep"]


@dataclass
class Steps:
    """Steps in time order, episode after episode.

    Args:
        loader: name of the function that speaks in errors.
        where: what is read, in words.
        observation, action: arrays or `Rows` `[N, ...]`, or nested dicts and sequences of them; None: both are among
            `others`.
        terminated: True where the task ended.
        truncated: True where an episode was cut.
        reward: `[N]` or `[N, 1]`; None where the format has none, or it is among `others`.
        next_observation: like `observation`; None: the row after, within an episode.
        observed: False where `next_observation` is not a recorded one.
        others: further columns.
        told: warnings.
    """

    loader: str
    where: str
    observation: Any
    action: Any
    terminated: Array
    truncated: Array
    reward: Any
    next_observation: Any = None
    observed: Array | None = None
    others: dict[Path, Any] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def refuse(self, name: str, expected: str, got: str, mend: str) -> NoReturn:
        """The error that names loader, source and entry."""
        refuse(self.loader, self.where, name, expected, got, mend)

    def warn(self, text: str) -> None:
        self.told.append(f"{self.loader}: {self.where}: {text}")


def refuse(loader: str, where: str, name: str, expected: str, got: str, mend: str) -> NoReturn:
    """The error that names loader, source and entry."""
    raise ValueError(f"{loader}: {where}, {name}: expected {expected}, got {got}. {mend}.")


def flag(loader: str, where: str, name: str, values: Any, rows: int | None = None) -> Array:
    """One flag for each row, `[N]` or `[N, 1]`; anything but 0 and 1 is refused."""
    array = squeezed(np.asarray(values))
    found = cast(array, "flag")
    if found is None or found.ndim != 1:
        got = f"others, of dtype {array.dtype} and shape {array.shape}"
        refuse(loader, where, name, "one flag for each row (bool, or 0 and 1)", got, "Check the file")
    if rows is not None and len(found) != rows:
        refuse(loader, where, name, f"{rows} rows, as the other flags have", str(len(found)), "Check the file")
    return found


def joined(loader: str, where: str, name: str, parts: Sequence[Any], lengths: Sequence[int]) -> Any:
    """Nested values of episodes, one after the other; each has its episode's length, and the form of the first."""
    first = parts[0]
    if isinstance(first, (Mapping, list, tuple)):
        keys = _keys(first)
        for number, part in enumerate(parts):
            if _keys(part) != keys:
                got = f"others in episode {number} of these"
                refuse(loader, where, name, f"the entries {sorted(keys)} in all", got, "Leave such episodes out")
        found = {key: joined(loader, where, f"{name}/{key}", [part[key] for part in parts], lengths) for key in keys}
        return found if isinstance(first, Mapping) else [found[index] for index in range(len(first))]
    arrays = [part if isinstance(part, Rows) else Whole(part) for part in parts]
    for number, (array, length) in enumerate(zip(arrays, lengths, strict=True)):
        expected = (length, *arrays[0].shape[1:])
        if array.shape != expected:
            got = f"{array.shape} in episode {number} of these"
            refuse(loader, where, name, f"shape {expected}", got, "Leave such episodes out, or convert the file anew")
    return Joined(arrays)


def _keys(value: Any) -> set[Any]:
    if isinstance(value, Mapping):
        return set(value)
    return set(range(len(value))) if isinstance(value, (list, tuple)) else set()


def squeezed(array: Array) -> Array:
    """`[N, 1]` as `[N]`."""
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def ends(lengths: Sequence[int]) -> Array:
    """True on the last row of each episode."""
    flags = np.zeros(sum(lengths), bool)
    flags[np.cumsum(lengths)[np.asarray(lengths) > 0] - 1] = True
    return flags
