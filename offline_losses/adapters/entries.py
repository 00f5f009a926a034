"""Which entries of a dataset are read, as what, and the one cast that gives them their dtype."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, np.dtype[Any]]
Key = str | tuple[str, ...]
Path = tuple[str, ...]

ALWAYS: tuple[Path, ...] = (("next", "terminated"), ("next", "truncated"), ("next", "done"), ("episode",))
"""The entries that say where episodes end, which every function on flat data rests on."""
_DTYPES: dict[torch.dtype, type[np.generic]] = {
    torch.float16: np.float16,
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.bool: np.bool_,
    torch.uint8: np.uint8,
    torch.int8: np.int8,
    torch.int16: np.int16,
    torch.int32: np.int32,
    torch.int64: np.int64,
}


@dataclass(frozen=True)
class Choice:
    """The entries that a caller wants, each by its key or by one that stands above it."""

    keys: tuple[Path, ...] | None = None
    exclude: tuple[Path, ...] = ()
    dtype: tuple[tuple[Path, str], ...] = ()

    @classmethod
    def of(
        cls, loader: str, keys: Iterable[Key] | None, exclude: Iterable[Key], dtype: Mapping[Key, torch.dtype] | None
    ) -> Choice:
        """The choice as a loader is given it."""
        keys = keys if keys is None or isinstance(keys, (str, tuple)) else list(keys)
        exclude = exclude if isinstance(exclude, (str, tuple)) else list(exclude)
        for name, argument in (("keys", keys), ("exclude", exclude)):
            if isinstance(argument, str) or (isinstance(argument, tuple) and argument[:1] == ("next",)):
                raise TypeError(f"{loader}: {name}: expected a list of keys, got {argument!r}. Pass [{argument!r}].")
            for key in argument or ():
                if not isinstance(key, (str, tuple)):
                    raise TypeError(
                        f"{loader}: {name}: expected keys, got {key!r}. A key is a string or a tuple of strings."
                    )
        if dtype is not None and not isinstance(dtype, Mapping):
            raise TypeError(
                f"{loader}: dtype: expected a dict from keys to dtypes, got {dtype!r}. Name the entries, as in "
                "{'observation': torch.float64}."
            )
        types = []
        for key, wanted in (dtype or {}).items():
            if wanted not in _DTYPES:
                expected = ", ".join(map(str, _DTYPES))
                raise TypeError(
                    f"{loader}: dtype of {key!r}: expected one of {expected}, got {wanted}. Load one of these and cast "
                    "each batch."
                )
            types.append((path_of(key), np.dtype(_DTYPES[wanted]).name))
        chosen = None if keys is None else tuple(map(path_of, keys))
        return cls(chosen, tuple(map(path_of, exclude)), tuple(types))

    def takes(self, path: Path) -> bool:
        if path in ALWAYS:
            return True
        return (self.keys is None or _below(path, self.keys)) and not _below(path, self.exclude)

    def names(self, path: Path) -> bool:
        """Whether this very entry is asked for."""
        return path in (self.keys or ()) and self.takes(path)

    def dtype_of(self, path: Path) -> np.dtype[Any] | None:
        """The dtype that was asked for, by the longest key that fits; None for the usual one."""
        fitting = [(len(above), name) for above, name in self.dtype if path[: len(above)] == above]
        return np.dtype(max(fitting)[1]) if fitting else None

    def check(self, loader: str, present: Sequence[Path]) -> None:
        """Every key that was named must fit an entry."""
        for argument, named in (
            ("keys", self.keys or ()),
            ("exclude", self.exclude),
            ("dtype", [above for above, _ in self.dtype]),
        ):
            for above in named:
                if not any(path[: len(above)] == above for path in present):
                    raise ValueError(
                        f"{loader}: {argument}: expected keys of entries, got {key_of(above)!r}. The entries are "
                        f"{[key_of(path) for path in present]}; name one of them, or one that stands above some."
                    )


def path_of(key: Key) -> Path:
    """A key as a tuple."""
    return (key,) if isinstance(key, str) else tuple(key)


def key_of(path: Path) -> Key:
    """A tuple as the key that one writes."""
    return path[0] if len(path) == 1 else path


def _below(path: Path, above: Iterable[Path]) -> bool:
    return any(path[: len(key)] == key for key in above)


def cast(array: Array, kind: str, wanted: np.dtype[Any] | None = None) -> Array | None:
    """The one cast; None where a value would change its meaning.

    By `kind`: `"flag"` to bool, `"integer"` to int64, `"float"` to float32, `"number"` to float32 where it is a float
    and else to int64, while bytes stay bytes; or to the dtype that is wanted.
    """
    if array.dtype.kind not in "biuf":
        return None
    if kind == "flag":
        return _exact(array, np.dtype(np.bool_))
    if wanted is not None and wanted.kind == "f":
        return _rounded(array, wanted)
    if wanted is not None:
        return _exact(array, wanted)
    if kind == "integer":
        return _exact(array, np.dtype(np.int64))
    if array.dtype.kind == "f" or kind == "float":
        return _rounded(array, np.dtype(np.float32))
    return array if array.dtype == np.uint8 else _exact(array, np.dtype(np.int64))


def _rounded(array: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):  # what overflows is refused for not being finite
        return array.astype(dtype, copy=False)


def _exact(array: Array, dtype: np.dtype[Any]) -> Array | None:
    if array.dtype == dtype:
        return array
    with np.errstate(invalid="ignore"):
        exact = array.astype(dtype)
    return exact if np.array_equal(exact, array) else None


class LostSteps:
    """Counts the changes from row to row that float64 shows and the cast does not."""

    SHARE = 0.1
    """Of all changes, from which on it is told; a state that comes to rest loses a few."""

    def __init__(self) -> None:
        self.lost: int = 0
        self.changes: int = 0
        self.example: float = math.nan

    def __call__(self, before: Array, after: Array) -> None:
        """Looks at consecutive rows, before and after the cast."""
        if before.dtype != np.float64 or after.dtype.kind != "f" or after.dtype == np.float64 or len(before) < 2:
            return
        changed = before[1:] != before[:-1]
        lost = changed & (after[1:] == after[:-1])
        self.changes += int(np.count_nonzero(changed))
        self.lost += int(np.count_nonzero(lost))
        if math.isnan(self.example) and lost.any():
            self.example = float(before[1:][lost][0])

    def told(self, name: str, dtype: str, mend: str) -> str | None:
        """The warning, if one is due."""
        if not self.lost or self.lost < self.SHARE * self.changes:
            return None
        return (
            f"{name}: {self.lost} of {self.changes} changes from one row to the next are lost in {dtype}, where "
            f"numbers near {self.example!r} become equal. {mend}."
        )
