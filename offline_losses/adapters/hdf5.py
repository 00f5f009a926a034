"""Minari's HDF5 files by HDF5's own calls: the chosen arrays alone, long episodes in slices, infos never touched."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from h5py import h5d, h5f, h5g, h5s, h5t

from offline_losses.adapters.entries import Array
from offline_losses.adapters.episodes import REPAIR, UNREADABLE, Leaf, Piece, check_part, refusal

if TYPE_CHECKING:
    import minari


def hdf5_pieces(dataset: minari.MinariDataset, leaves: list[Leaf], rewards: int, rows: int) -> Iterator[Piece]:
    """The episodes in turn, those of more than `rows` steps in several pieces.

    An object of h5py costs more than the array behind it, at five arrays an episode and fifty steps in each.
    """
    arrays = [_Stored(dataset, leaf) for leaf in leaves]
    index = int(dataset.episode_indices[0]) if len(dataset.episode_indices) else None
    try:
        file = _opened(str(dataset.storage.data_path / "main_data.hdf5"))
    except UNREADABLE as error:
        raise _unreadable(dataset, index, error) from error
    for index in map(int, dataset.episode_indices):
        try:
            group = h5g.open(file, b"episode_%d" % index)
        except UNREADABLE as error:
            raise _unreadable(dataset, index, error) from error
        opened = [array.open(group, index) for array in arrays]
        shape = opened[rewards].shape
        length = int(shape[0]) if shape else 0
        for array, stored in zip(arrays, opened, strict=True):
            array.check(stored, index, length)
        for start in range(0, length, rows):
            stop = min(start + rows, length)
            try:
                parts = [
                    array.read(stored, start, stop, start == 0 and stop == length)
                    for array, stored in zip(arrays, opened, strict=True)
                ]
            except UNREADABLE as error:
                raise _unreadable(dataset, index, error) from error
            yield Piece(index, start, stop - start, stop == length, parts)


class _Stored:
    """Reads one leaf of each episode, and remembers the type of the last one."""

    def __init__(self, dataset: minari.MinariDataset, leaf: Leaf) -> None:
        self.dataset, self.leaf = dataset, leaf
        steps = (leaf.record, *(f"_index_{key}" if isinstance(key, int) else key for key in leaf.path))
        self.name = "/".join(steps).encode()
        self.encoded = bool(dataset.storage.jpeg_encoding) and _is_image(leaf.space)
        self.stored_type: Any = None
        self.dtype: np.dtype[Any] = np.dtype(np.void)
        self.memory_type: Any = None

    def open(self, group: Any, index: int) -> Any:
        try:
            return h5d.open(group, self.name)
        except UNREADABLE as error:
            leaf = self.leaf
            raise refusal(self.dataset, index, leaf.name, f"an entry for {leaf.space}", "none", REPAIR) from error

    def check(self, stored: Any, index: int, length: int) -> None:
        shape = stored.shape
        if self.encoded:
            check_part(self.dataset, index, self.leaf, length, (*shape[:1], *self.leaf.shape), np.dtype(np.uint8))
            return
        stored_type = stored.get_type()
        if self.stored_type is None or stored_type != self.stored_type:
            self.stored_type, self.dtype = stored_type, stored.dtype
            self.memory_type = h5t.py_create(self.dtype)
        elif shape == (length + self.leaf.extra_rows, *self.leaf.shape) and length:
            return
        check_part(self.dataset, index, self.leaf, length, shape, self.dtype)

    def read(self, stored: Any, start: int, stop: int, whole: bool) -> Array:
        stop += self.leaf.extra_rows
        if self.encoded:
            return _decoded(h5py.Dataset(stored)[start:stop], self.leaf.shape)
        part: Array = np.empty((stop - start, *self.leaf.shape), self.dtype)
        if whole:
            stored.read(h5s.ALL, h5s.ALL, part, self.memory_type)
            return part
        there = stored.get_space()
        there.select_hyperslab((start, *(0 for _ in self.leaf.shape)), part.shape)
        stored.read(h5s.create_simple(part.shape), there, part, self.memory_type)
        return part


def _opened(path: str) -> Any:
    """The file, without a cache of what is looked at once: it grows by 30 kB an episode, and slows the reading."""
    file = h5f.open(path.encode(), h5f.ACC_RDONLY)
    config = file.get_mdc_config()
    config.set_initial_size = True
    config.initial_size = config.min_size = config.max_size = 1 << 20
    file.set_mdc_config(config)
    return file


def _unreadable(dataset: minari.MinariDataset, index: int | None, error: Exception) -> Exception:
    return refusal(dataset, index, "files", "a readable episode", f"{type(error).__name__}: {error}", REPAIR)


def _is_image(space: Any) -> bool:
    from minari.dataset.minari_storage import is_image_space

    return bool(is_image_space(space))


def _decoded(frames: Any, shape: tuple[int, ...]) -> Array:
    from PIL import Image

    images = np.empty((len(frames), *shape), dtype=np.uint8)
    for image, frame in zip(images, frames, strict=True):
        image[...] = np.asarray(Image.open(io.BytesIO(frame.tobytes())), dtype=np.uint8)
    return images
