"""Episodes joined into flat columns block by block, and the checks that whole rows can be given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from offline_losses.adapters.entries import Array, Choice, LostSteps, Path, cast
from offline_losses.adapters.episodes import (
    DISCRETE,
    REPAIR,
    Leaf,
    Leaves,
    Piece,
    leaves_of,
    record_pieces,
    refusal,
    refuse_hidden_episodes,
)
from offline_losses.adapters.memory import BLOCK, Write

if TYPE_CHECKING:
    import minari

LARGE = 500_000
"""Number of steps from which on a progress bar shows by default; an episode, however short, counts as many as 250."""


@dataclass
class EpisodeReading:
    """A dataset that is about to be read: how much it is, and what of it."""

    dataset: minari.MinariDataset
    choice: Choice
    leaves: Leaves = field(init=False)
    steps: int = field(init=False)

    def __post_init__(self) -> None:
        refuse_hidden_episodes(self.dataset)
        self.leaves = leaves_of(self.dataset, self.choice)
        storage, chosen = self.dataset.storage, len(self.dataset.episode_indices)
        if not chosen:
            raise refusal(self.dataset, None, "episodes", "at least one", "none", "Load a dataset that has episodes")
        episodes, steps = int(storage.total_episodes), int(storage.total_steps)
        self.whole: bool = chosen == episodes
        self.steps = max(1, steps if self.whole else round(chosen / episodes * steps))

    @property
    def row_bytes(self) -> int:
        """About what a row of all columns takes."""
        return 9 + sum(leaf.row_bytes for leaf in self.leaves.all)

    def write(self, write: Write, progress: bool | None) -> list[str]:
        """Hands all columns over, block after block, and returns the warnings."""
        rows = max(1, BLOCK // self.row_bytes)
        block = _Block(self, write)
        for piece in _with_progress(self._pieces(rows), self, progress):
            block.pieces.append(piece)
            block.rows += piece.length
            if block.rows >= rows:
                block.flush()
        block.flush()
        if self.whole and block.steps != int(self.dataset.storage.total_steps):
            expected = f"the {int(self.dataset.storage.total_steps)} steps that metadata.json counts"
            raise refusal(self.dataset, None, "rewards", expected, f"{block.steps}", REPAIR)
        return block.warnings()

    def _pieces(self, rows: int) -> Iterator[Piece]:
        if self.dataset.storage.FORMAT != "hdf5":
            return record_pieces(self.dataset, self.leaves.all)
        from offline_losses.adapters.hdf5 import hdf5_pieces

        return hdf5_pieces(self.dataset, self.leaves.all, self.leaves.rewards, rows)


class _Block:
    """Pieces of episodes that are checked, cast and written together."""

    def __init__(self, reading: EpisodeReading, write: Write) -> None:
        self.reading, self.dataset, self._write = reading, reading.dataset, write
        self.pieces: list[Piece] = []
        self.rows = self.steps = self.ends = self.open_ends = self.outside = 0
        self.first_outside: dict[str, tuple[int, str]] = {}
        self.lost: dict[Path, LostSteps] = {}

    def flush(self) -> None:
        """Writes what has been collected."""
        if not self.pieces:
            return
        flags: dict[str, Array] = {}
        for place, leaf in enumerate(self.reading.leaves.all):
            parts = [piece.parts[place] for piece in self.pieces]
            if leaf.kind == "flag":
                flags[leaf.record] = self._cast(parts, leaf, None)
            else:
                self._write_leaf(parts, leaf)
        self._close(flags["terminations"], flags["truncations"])
        lengths = [piece.length for piece in self.pieces]
        self._write(("episode",), np.repeat(np.asarray([piece.episode for piece in self.pieces], np.int64), lengths))
        self.steps += self.rows
        self.pieces, self.rows = [], 0

    def _write_leaf(self, parts: list[Array], leaf: Leaf) -> None:
        joined: dict[np.dtype[Any] | None, Array] = {}
        for place, path in enumerate(leaf.entries):
            wanted = self.reading.choice.dtype_of(path)
            if wanted not in joined:
                joined[wanted] = self._cast(parts, leaf, wanted, path)
                parts = parts if len(leaf.entries) > 1 else []
            shifted = leaf.extra_rows * int(path[0] == "next")
            column = self._rows_of(joined[wanted], leaf, shifted)
            self._check_finite(path, column)
            if leaf.record == "actions" and place == 0:
                self._check_action(leaf, column)
            self._write(path, column)

    def _cast(self, parts: list[Array], leaf: Leaf, wanted: np.dtype[Any] | None, path: Path = ()) -> Array:
        if len({part.dtype for part in parts}) == 1:
            parts = [parts[0] if len(parts) == 1 else np.concatenate(parts)]
        done = [cast(part, leaf.kind, wanted) for part in parts]
        for place, (before, after) in enumerate(zip(parts, done, strict=True)):
            if after is None:
                row, number = _first_inexact(before, leaf.kind, wanted)
                piece = self._piece_of(row, leaf) if len(parts) == 1 else self.pieces[place]
                got = f"others, of dtype {before.dtype}, {number} among them"
                expected = leaf.expected if wanted is None else f"{leaf.expected} that {wanted} can hold"
                raise refusal(self.dataset, piece.episode, leaf.name, expected, got, REPAIR)
            self.lost.setdefault(path, LostSteps())(before, after)
        whole = [part for part in done if part is not None]
        return whole[0] if len(whole) == 1 else np.concatenate(whole)

    def _rows_of(self, joined: Array, leaf: Leaf, shifted: int) -> Array:
        """Of T + 1 rows of each piece the first T, or the last."""
        if not leaf.extra_rows:
            return joined
        if len(self.pieces) == 1:
            return joined[shifted : len(joined) - 1 + shifted]
        kept = np.ones(len(joined), dtype=bool)
        ends = np.cumsum([piece.length + 1 for piece in self.pieces]) - 1
        kept[ends - [piece.length for piece in self.pieces] if shifted else ends] = False
        return joined[kept]

    def _piece_of(self, row: int, leaf: Leaf) -> Piece:
        ends = np.cumsum([piece.length + leaf.extra_rows for piece in self.pieces])
        return self.pieces[int(np.searchsorted(ends, row, side="right"))]

    def _refusal(self, row: int, name: str, expected: str, got: str) -> Exception:
        place = int(np.searchsorted(np.cumsum([piece.length for piece in self.pieces]), row, side="right"))
        piece = self.pieces[place]
        step = piece.start + row - sum(before.length for before in self.pieces[:place])
        return refusal(self.dataset, piece.episode, name, expected, f"{got} at step {step}", REPAIR)

    def _check_finite(self, path: Path, column: Array) -> None:
        if column.dtype.kind != "f":
            return
        finite = np.isfinite(column)
        if not finite.all():
            row = int(np.argmin(finite.reshape(len(column), -1).all(axis=1)))
            expected = f"numbers that are finite in {column.dtype}"
            raise self._refusal(row, "/".join(path), expected, f"{column[row]}")

    def _check_action(self, leaf: Leaf, column: Array) -> None:
        low, high = bounds(leaf.space)
        outside = ((column < low) | (column > high)).reshape(len(column), -1).any(axis=1)
        if not outside.any():
            return
        row = int(np.argmax(outside))
        if isinstance(leaf.space, DISCRETE):
            raise self._refusal(row, leaf.name, f"values of {leaf.space}", f"{column[row]}")
        count, first = self.first_outside.get(leaf.name, (0, f"{leaf.space}, the first is {column[row]}"))
        self.first_outside[leaf.name] = count + int(outside.sum()), first

    def _close(self, terminated: Array, truncated: Array) -> None:
        """The flags, with every episode ended at its last row and nowhere else."""
        last = (np.cumsum([piece.length for piece in self.pieces]) - 1)[[piece.last for piece in self.pieces]]
        inside = terminated | truncated
        ended = inside[last]
        inside[last] = False
        if inside.any():
            row = int(np.argmax(inside))
            name = "terminations" if terminated[row] else "truncations"
            raise self._refusal(row, name, "an end flag on the last step only", "one")
        if not ended.all():
            truncated = truncated.copy()
            truncated[last[~ended]] = True
        self.ends += len(ended)
        self.open_ends += int((~ended).sum())
        self._write(("next", "terminated"), terminated)
        self._write(("next", "truncated"), truncated)
        self._write(("next", "done"), terminated | truncated)

    def warnings(self) -> list[str]:
        """What is to be told of the whole dataset."""
        here = f"load_minari: dataset {self.dataset.id!r}"
        told = [
            f"{here}: {name} is left out, being no array. Name the entries that you want with keys= to be silent."
            for name in self.reading.leaves.skipped
        ]
        for name, (count, first) in self.first_outside.items():
            told.append(
                f"{here}, {name}: {count} of {self.steps} actions lie outside {first}. They are kept as they are; "
                "check the units (`replay_error` does) before you use a loss that needs the range."
            )
        if self.open_ends:
            told.append(
                f"{here}: {self.open_ends} of {self.ends} episodes end with neither flag; their last step is marked "
                "truncated."
            )
        for path, lost in self.lost.items():
            mend = "Subtract an offset when recording, or load the entry with dtype={...: torch.float64}"
            text = lost.told("/".join(path), str(self.reading.choice.dtype_of(path) or "float32"), mend)
            told += [f"{here}, {text}"] if text else []
        return told


def _first_inexact(array: Array, kind: str, wanted: np.dtype[Any] | None) -> tuple[int, Any]:
    row = next(row for row in range(len(array)) if cast(array[row : row + 1], kind, wanted) is None)
    return row, array[row]


def bounds(space: spaces.Space[Any]) -> tuple[Any, Any]:
    """The lowest and the highest numbers of a space of arrays."""
    if isinstance(space, spaces.Box):
        return space.low, space.high
    if isinstance(space, spaces.Discrete):
        return space.start, space.start + space.n - 1
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return 0, 1


def _with_progress(pieces: Iterator[Piece], reading: EpisodeReading, progress: bool | None) -> Iterable[Piece]:
    episodes = len(reading.dataset.episode_indices)
    if not (reading.steps + 250 * episodes >= LARGE if progress is None else progress):
        return pieces
    try:
        from rich.progress import Progress
    except ImportError:
        return pieces
    return _shown(pieces, reading, Progress())


def _shown(pieces: Iterator[Piece], reading: EpisodeReading, bar: Any) -> Iterator[Piece]:
    with bar:
        size = reading.steps * reading.row_bytes / 1e6
        task = bar.add_task(f"reading {reading.dataset.id}, {size:.0f} MB", total=reading.steps)
        for piece in pieces:
            yield piece
            bar.advance(task, piece.length)
        bar.update(task, completed=reading.steps)
