"""Steps of any format as columns with the guarantees of `load_minari`: ends, next observations, finite numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from offline_losses.adapters.entries import ALWAYS, Array, Choice, LostSteps, Path, cast
from offline_losses.adapters.flat import Last, Steps, flag, squeezed
from offline_losses.adapters.memory import Write
from offline_losses.adapters.rows import Picked, Rows, blocks, leaves

_OBSERVED = ("next", "observed")


@dataclass
class FlatReading:
    """Steps that are about to be read; `last` says what becomes of rows whose next observation is not on record."""

    source: Steps
    choice: Choice
    last: Last
    steps: int = field(init=False)

    def __post_init__(self) -> None:
        source = self.source
        self._flags: dict[Path, Array] = self._ends()
        self.steps = len(self._flags["episode",])
        shifted = source.next_observation is None and source.observation is not None
        done = self._flags["next", "terminated"] | self._flags["next", "truncated"]
        observed = ~done if shifted else np.ones(self.steps, bool) if source.observed is None else source.observed
        self._entries: dict[Path, Rows] = self._checked()
        if shifted:
            following = np.arange(self.steps) + observed
            found = {path: rows for path, rows in self._entries.items() if path[0] == "observation"}
            self._entries |= {("next", *path): Picked(rows, following) for path, rows in found.items()}
        if shifted or not observed.all():
            self._flags[_OBSERVED] = observed
        self.choice.check(source.loader, [*self._entries, *ALWAYS])
        self._kept: Array | None = self._close(observed) if self.last == "drop" else None

    @property
    def row_bytes(self) -> int:
        """About what a row of all columns takes."""
        chosen = [(path, rows) for path, rows in self._entries.items() if self.choice.takes(path)]
        return 12 + sum(math.prod(rows.shape[1:]) * self._dtype(path, rows).itemsize for path, rows in chosen)

    def write(self, write: Write, progress: bool | None = None) -> list[str]:
        """Hands all columns over, one after the other in blocks, and returns the warnings."""
        kept = slice(None) if self._kept is None else self._kept
        self._flags["next", "done"] = self._flags["next", "terminated"] | self._flags["next", "truncated"]
        for path, column in self._flags.items():
            write(path, column[kept])
        for path, rows in self._entries.items():
            if self.choice.takes(path):
                self._write(write, path, rows)
        return self.source.told

    def _write(self, write: Write, path: Path, rows: Rows) -> None:
        lost = LostSteps()
        for start, stop in blocks(rows):
            block = rows.read(start, stop)
            column = self._cast(path, block, start)
            if path[0] == "observation":
                lost(block, column)
            write(path, column if self._kept is None else column[self._kept[start:stop]])
        mend = "Subtract an offset from them first, or load the entry with dtype={...: torch.float64}"
        text = lost.told("/".join(path), str(self._dtype(path, rows)), mend)
        if text:
            self.source.warn(text)

    def _cast(self, path: Path, block: Array, start: int) -> Array:
        name, wanted = "/".join(path), self.choice.dtype_of(path)
        column = cast(block, _kind(path, block.dtype), wanted)
        if column is None:
            expected = "integers" if wanted is None else f"numbers that {wanted} can hold"
            got = f"others, of dtype {block.dtype}, in rows {start} to {start + len(block) - 1}"
            self.source.refuse(name, expected, got, "Leave the entry out with exclude=, or choose another dtype")
        if column.dtype.kind == "f" and not np.isfinite(column).all():
            row = int(np.argmin(np.isfinite(column).reshape(len(column), -1).all(axis=1)))
            expected, got = f"numbers that are finite in {column.dtype}", f"{column[row]} at row {start + row}"
            self.source.refuse(name, expected, got, "Repair the file, or cut it there")
        return squeezed(column) if path == ("next", "reward") or _is_choice(path, block.dtype) else column

    def _dtype(self, path: Path, rows: Rows) -> np.dtype[np.generic]:
        none = cast(np.empty(0, rows.dtype), _kind(path, rows.dtype), self.choice.dtype_of(path))
        return rows.dtype if none is None else none.dtype

    def _ends(self) -> dict[Path, Array]:
        source = self.source
        if self.last not in ("drop", "keep"):
            raise ValueError(f"{source.loader}: last: expected 'drop' or 'keep', got {self.last!r}. Choose one.")
        terminated = flag(source.loader, source.where, "terminated", source.terminated)
        truncated = flag(source.loader, source.where, "truncated", source.truncated, len(terminated))
        if len(terminated) == 0:
            source.refuse("rows", "at least one step", "none", "Load a file that has steps")
        if not (terminated | truncated)[-1]:
            truncated = truncated.copy()
            truncated[-1] = True
            source.warn("the last step has neither flag; it is marked truncated.")
        episode = np.concatenate([[0], np.cumsum(terminated | truncated)[:-1]]).astype(np.int64)
        return {("episode",): episode, ("next", "terminated"): terminated, ("next", "truncated"): truncated}

    def _checked(self) -> dict[Path, Rows]:
        """The entries, of which each has a row of numbers for each step."""
        source, entries = self.source, {}
        named = {
            ("observation",): source.observation,
            ("action",): source.action,
            ("next", "observation"): source.next_observation,
            ("next", "reward"): source.reward,
            **source.others,
        }
        for above, value in named.items():
            for path, rows in leaves(value, above) if value is not None else ():
                entries[path] = rows
                if not (self.choice.takes(path) or self.choice.takes(("next", *path))):
                    continue
                name = "/".join(path)
                if rows.shape[:1] != (self.steps,):
                    expected = f"{self.steps} rows, as the flags have"
                    source.refuse(name, expected, f"shape {rows.shape}", "Check the file")
                if rows.dtype.kind not in "biuf":
                    source.refuse(name, "numbers", f"dtype {rows.dtype}", "Leave the entry out with exclude=")
                if path == ("next", "reward") and rows.shape[1:] not in ((), (1,)):
                    source.refuse(name, "one number for each row", f"shape {rows.shape}", "Choose one of them")
        for path, rows in entries.items():
            following = entries.get(("next", *path), rows)
            if path[0] != "next" and following.shape != rows.shape and self.choice.takes(("next", *path)):
                expected, got = f"shape {rows.shape}, as {'/'.join(path)} has", f"shape {following.shape}"
                source.refuse("/".join(("next", *path)), expected, got, "Check the file")
            asked = any(self.choice.dtype_of(each) for each in (path, ("next", *path)))
            if path[0] != "next" and not asked and self._dtype(path, following) != self._dtype(path, rows):
                expected, got = (
                    f"numbers that become {self._dtype(path, rows)}, as {'/'.join(path)}",
                    str(following.dtype),
                )
                key = f"dtype={{{('next', *path)!r}: ...}}"
                source.refuse("/".join(("next", *path)), expected, got, f"Load it with {key}, or check the file")
        if source.observation is not None and source.next_observation is not None:
            before = {path[1:] for path in entries if path[0] == "observation"}
            after = {path[2:] for path in entries if path[:2] == ("next", "observation")}
            if before != after:
                got = f"others: {sorted('/'.join(path) for path in before ^ after)}"
                source.refuse("next/observation", "the entries of the observation", got, "Check the file")
        return entries

    def _close(self, observed: Array) -> Array | None:
        """Which rows stay; truncated ones without a next observation go, and the rows before end their episodes."""
        gone = ~observed & ~self._flags["next", "terminated"]
        if not gone.any():
            return None
        if gone.all():
            self.source.refuse("rows", "a transition", "none", "With last='keep' the single steps stay")
        self.source.warn(
            f"{int(gone.sum())} of {len(gone)} steps are left out, an episode being cut there without a record of the "
            "next observation; each holds a reward. last='keep' keeps them, with ('next', 'observed') False."
        )
        episode = self._flags["episode",]
        cut = np.zeros_like(gone)
        cut[:-1] = gone[1:] & (episode[1:] == episode[:-1])
        self._flags["next", "truncated"] = self._flags["next", "truncated"] | cut
        return ~gone


def _kind(path: Path, dtype: np.dtype[np.generic]) -> str:
    return "float" if path[-1] == "reward" else "flag" if dtype == np.bool_ else "number"


def _is_choice(path: Path, dtype: np.dtype[np.generic]) -> bool:
    """Whether these are actions of a discrete space, of which some formats store one in a row of its own."""
    return path[0] == "action" and dtype.kind in "iu" and dtype != np.uint8
