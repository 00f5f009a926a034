"""Episodes of d3rlpy, from its replay buffer or from the file that the buffer's `dump` writes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from os import PathLike, fspath
from types import SimpleNamespace
from typing import Any

import numpy as np
from tensordict import TensorDict

from offline_losses.adapters.files import open_hdf5
from offline_losses.adapters.flat import Last, Steps, ends, joined
from offline_losses.adapters.keeping import from_files

_NAMES = ("observations", "actions", "rewards", "terminated")


def from_d3rlpy(source: Any, *, last: Last = "drop") -> TensorDict:
    """A d3rlpy replay buffer (2.8.1), a list of its episodes, or a dumped file as one flat TensorDict `[N]`.

    `terminated` of an episode is a termination at its last step; any other end is a cut. d3rlpy records no observation
    after the last step: a terminated step needs none, and a step that was cut is left out or marked. d3rlpy itself
    gives zeros after a terminated step, and leaves out the one that was cut.

    Args:
        source: a `ReplayBuffer`, a sequence of `Episode`, or the path of what `ReplayBuffer.dump` wrote.
        last: `"drop"` the last step of an episode that was cut, with a warning (it holds a reward), or `"keep"` it with
            `("next", "observed")` False.

    Returns:
        The keys of `load_minari`, and `("next", "observed")`. Integer actions `[N, 1]` are `[N]`.

    Raises:
        ValueError: no episodes, arrays of different lengths, numbers that are not finite, or an old file.
    """
    if isinstance(source, (str, PathLike)):
        where, episodes = f"file {str(source)!r}", _dumped(source)
    else:
        where, held = type(source).__name__, getattr(source, "episodes", source)
        if not isinstance(held, Iterable):
            raise TypeError(
                f"from_d3rlpy: source: expected a ReplayBuffer, its episodes or the path of a dump, got {where}. Pass "
                "one of these."
            )
        episodes = list(held)
    strange = [name for name in _NAMES for episode in episodes if not hasattr(episode, name)]
    if strange:
        raise ValueError(
            f"from_d3rlpy: {where}: expected episodes with {', '.join(_NAMES)}, got one without {strange[0]}. Dump the "
            "buffer anew, or pass d3rlpy's episodes."
        )
    episodes = [episode for episode in episodes if np.size(episode.rewards)]
    if not episodes:
        raise ValueError(f"from_d3rlpy: {where}: expected at least one episode, got none. Fill the buffer first.")
    lengths = [len(np.atleast_1d(episode.rewards)) for episode in episodes]

    def column(name: str) -> Any:
        return joined("from_d3rlpy", where, name, [getattr(episode, name) for episode in episodes], lengths)

    last_rows = ends(lengths)
    terminated = np.zeros(len(last_rows), bool)
    terminated[last_rows] = [bool(episode.terminated) for episode in episodes]
    steps = Steps(
        "from_d3rlpy",
        where,
        observation=column("observations"),
        action=column("actions"),
        terminated=terminated,
        truncated=last_rows & ~terminated,
        reward=column("rewards"),
    )
    count, there = getattr(source, "transition_count", None), sum(int(e.transition_count) for e in _counted(episodes))
    if isinstance(count, int) and count != there:
        steps.warn(f"its episodes have {there} transitions and the buffer holds {count}; the evicted ones come back.")
    return from_files("from_d3rlpy", source, nullcontext(steps), last=last)


def _counted(episodes: list[Any]) -> list[Any]:
    return [episode for episode in episodes if hasattr(episode, "transition_count")]


def _dumped(path: str | PathLike[str]) -> list[Any]:
    with open_hdf5("from_d3rlpy", path) as file:
        if "num_episodes" not in file or "columns" not in file:
            raise ValueError(
                f"from_d3rlpy: file {fspath(path)!r}: expected num_episodes and columns, as ReplayBuffer.dump of "
                f"d3rlpy 2 writes them, got {sorted(file)[:5]}. Read a file of d3rlpy 1 with `load_d4rl`."
            )
        names = [name.decode() for name in file["columns"][()]]
        return [
            SimpleNamespace(**{name: part for name in names if (part := _column(file, name, index)) is not None})
            for index in range(int(file["num_episodes"][()]))
        ]


def _column(file: Any, name: str, index: int) -> Any:
    if f"{name}_{index}" in file:
        return file[f"{name}_{index}"][()]
    parts: list[Any] = []
    while f"{name}_{index}_{len(parts)}" in file:
        parts.append(file[f"{name}_{index}_{len(parts)}"][()])
    return parts or None
