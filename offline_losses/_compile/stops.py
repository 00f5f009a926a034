r"""The best stop of `_core/stops.py` as one operator, with generated kernels for chunks of its steps.

As in `scan`: one kernel tells what each chunk makes of the value after it, the chunks are solved likewise, and a second
kernel fills them. The operator has no derivative.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, library
from torch.nn.functional import pad

from offline_losses._compile.scan import CHUNK, chunks, run
from offline_losses._compile.switches import Process, Unsupported
from offline_losses._core.scan import in_front
from offline_losses._core.stops import stop_in_order


def _best_stop(b: Tensor, a: Tensor, stopped: Tensor) -> Tensor:
    """Rows one after the other are one sequence, since nothing passes the last step of each."""
    if b.numel() == 0 or Process.forked:
        return stop_in_order(b, a, stopped)
    try:
        return _chunked(b.flatten(), a.flatten(), stopped.flatten()).view(b.shape)
    except Unsupported:
        return stop_in_order(b, a, stopped)


def _chunked(b: Tensor, a: Tensor, stopped: Tensor) -> Tensor:
    if len(b) == 1:
        return torch.maximum(b, stopped)
    if len(b) <= CHUNK:
        return run(_filled, b, a, stopped, torch.zeros_like(b[:1]))[0]
    first = _chunked(*run(_summary, b, a, stopped))
    return run(_filled, b, a, stopped, first)[0]


def _summary(b: Tensor, a: Tensor, stopped: Tensor) -> list[Tensor]:
    """The sum, product and best stop of each chunk."""
    b, a, stopped = (chunks(x, 0.0) for x in (b, a, stopped))
    total, product, best = b[:, -1], a[:, -1], stopped[:, -1]
    for t in reversed(range(CHUNK - 1)):
        best = torch.maximum(b[:, t] + a[:, t] * best, stopped[:, t])
        total, product = b[:, t] + a[:, t] * total, a[:, t] * product
    return [total, product, best]


def _filled(b: Tensor, a: Tensor, stopped: Tensor, first: Tensor) -> list[Tensor]:
    """Every step of a chunk, from the first values of all chunks."""
    steps = b.shape[0]
    b, a, stopped = (chunks(x, 0.0) for x in (b, a, stopped))
    x, filled = pad(first[1:], (0, 1)), []
    for t in reversed(range(CHUNK)):
        x = torch.maximum(b[:, t] + a[:, t] * x, stopped[:, t])
        filled.append(x)
    return [torch.stack(filled[::-1], -1).flatten()[:steps]]


def _empty(b: Tensor, a: Tensor, stopped: Tensor) -> Tensor:
    return torch.empty_like(b, memory_format=torch.contiguous_format)


def _mapped(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> tuple[Tensor, int]:
    return best_stop(*in_front(info.batch_size, in_dims, tensors)), 0


_library = library.Library("offline_losses", "FRAGMENT")  # type: ignore[no-untyped-call]
_schema = "best_stop(Tensor b, Tensor a, Tensor stopped) -> Tensor"
_library.define(_schema, tags=torch.Tag.pt2_compliant_tag)  # type: ignore[no-untyped-call]
_library.impl("best_stop", _best_stop, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
library.register_fake("offline_losses::best_stop", _empty, lib=_library)
best_stop = torch.ops.offline_losses.best_stop.default
library.register_vmap("offline_losses::best_stop", _mapped, lib=_library)
