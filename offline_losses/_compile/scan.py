r"""The recurrence of `_core/scan.py` as one operator, with generated kernels for chunks of its steps.

One kernel tells what each chunk of sixteen steps makes of the value after it, the recurrence over the chunks is solved
likewise, and a second kernel fills them: a few kernels serve every length, and no loop over time is unrolled. The
gradient of `offline_losses::scan` is another operator, `offline_losses::scan_forwards`, forwards in time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, library
from torch.nn.functional import pad

from offline_losses._compile.graph import SHAPES, Graphs, Plan, size_class
from offline_losses._compile.switches import Process, Unsupported
from offline_losses._core.scan import (
    are_told_by_products,
    bounded,
    either,
    factor_gradient,
    in_front,
    reversed_factors,
    solve_in_order,
)

CHUNK = 16
"""Steps that one kernel takes in a row."""

Kernel: TypeAlias = Callable[..., list[Tensor]]
Kernels: TypeAlias = tuple[Kernel, Kernel]

_graphs: dict[Any, Graphs] = {}
_found: dict[Any, Callable[..., Sequence[Tensor]]] = {}


class Unsafe(Exception):
    """Products of these factors do not tell what a loop would."""


def _scan(
    kernels: Kernels, b: Tensor, a: Tensor, done: Tensor | None = None, terminated: Tensor | None = None
) -> Tensor:
    """Backwards in time, or forwards as gradients do: a cut keeps the step after it from what it had."""
    if b.numel() == 0 or b.shape[-1] == 1:
        return b.clone(memory_format=torch.contiguous_format)
    try:
        if Process.forked:
            raise Unsupported
        return _in_chunks(kernels, b, a, done, terminated)
    except (Unsupported, Unsafe):
        return solve_in_order(b, a, either(done, terminated), kernels is _FORWARDS)


def _in_chunks(kernels: Kernels, b: Tensor, a: Tensor, done: Tensor | None, terminated: Tensor | None) -> Tensor:
    """All rows as one sequence, cut where each of them ends."""
    cut = either(done, terminated)
    if cut is None:
        cut = torch.zeros_like(b, dtype=torch.bool)
    if b.dim() > 1:
        cut = cut.clone() if cut is done else cut
        cut[..., -1] = True
    return _chunked(kernels, b.flatten(), a.flatten() if a.dim() else a, cut.flatten(), b.is_cpu).view(b.shape)


def _chunked(kernels: Kernels, b: Tensor, a: Tensor, cut: Tensor, checked: bool) -> Tensor:
    steps = b.shape[0]
    if steps == 1:
        return b
    if steps <= CHUNK and kernels is _FORWARDS:
        turned = reversed_factors(a) if a.dim() else a
        return _chunked(_BACKWARDS, b.flip(0), turned, reversed_factors(cut), checked).flip(0)
    if steps <= CHUNK:
        return run(_last, b, a, cut)[0]
    summary, filled = kernels
    alone, product, stopped = run(summary, b, a, cut)
    if checked and not are_told_by_products(product):
        raise Unsafe
    first = _chunked(_BACKWARDS, alone, product, stopped, checked)
    if checked and not math.isfinite(float(first.sum())):
        raise Unsafe
    return run(filled, b, a, cut, first)[0]


def run(kernel: Kernel, *tensors: Tensor) -> Sequence[Tensor]:
    tensors = tuple(x.contiguous() for x in tensors)  # the flattened view of a strided tensor is strided
    b = tensors[0]
    key = (kernel, b.dtype, b.device, torch.get_num_threads(), *(x.shape for x in tensors))
    if key not in _found:
        if len(_found) >= SHAPES:
            _found.clear()
        kind = (kernel, tensors[1].dim(), b.dtype, b.device, size_class(tensors))
        _found[key] = _graphs.setdefault(kind, Graphs(Plan(kernel, sequential=True))).fit(tensors) or kernel
    return _found[key](*tensors)


def _summary(b: Tensor, a: Tensor, cut: Tensor) -> list[Tensor]:
    """What a chunk makes of the value after it: it adds the first to the second times it, unless the third is True.

    The second is one number for all chunks if `a` is one.
    """
    b, cut, factors = chunks(b, 0.0), chunks(cut, True), _factors(a)
    x = torch.zeros_like(b[:, 0])
    for t in reversed(range(CHUNK)):
        x = b[:, t] + _passed(factors[t], x, cut[:, t])
    return [x, *_product(factors, cut)]


def _filled(b: Tensor, a: Tensor, cut: Tensor, first: Tensor) -> list[Tensor]:
    """Every step of a chunk, from the first values of all chunks."""
    steps = b.shape[0]
    b, cut, factors = chunks(b, 0.0), chunks(cut, True), _factors(a)
    x, filled = pad(first[1:], (0, 1)), []
    for t in reversed(range(CHUNK)):
        x = b[:, t] + _passed(factors[t], x, cut[:, t])
        filled.append(x)
    return [torch.stack(filled[::-1], -1).flatten()[:steps]]


def _summary_forwards(b: Tensor, a: Tensor, cut: Tensor) -> list[Tensor]:
    """What a chunk passes on, in the same way from what is passed to it; the last chunk comes first."""
    b, cut, factors = chunks(b, 0.0), chunks(cut, True), _factors(a)
    passed = torch.zeros_like(b[:, 0])
    for t in range(CHUNK):
        passed = _passed(factors[t], b[:, t] + passed, cut[:, t])
    return [x.flip(0) if x.dim() else x for x in (passed, *_product(factors, cut))]


def _filled_forwards(b: Tensor, a: Tensor, cut: Tensor, passed: Tensor) -> list[Tensor]:
    """Every step of a chunk, from what all chunks pass on, the last chunk first."""
    steps = b.shape[0]
    b, cut, factors = chunks(b, 0.0), chunks(cut, True), _factors(a)
    passed, filled = pad(passed[1:], (0, 1)).flip(0), []
    for t in range(CHUNK):
        filled.append(b[:, t] + passed)
        passed = _passed(factors[t], filled[t], cut[:, t])
    return [torch.stack(filled, -1).flatten()[:steps]]


def _last(b: Tensor, a: Tensor, cut: Tensor) -> list[Tensor]:
    """Every step of one chunk that nothing follows."""
    steps = b.shape[0]
    b, cut, factors = chunks(b, 0.0)[0], chunks(cut, True)[0], _factors(a)
    filled = [torch.zeros_like(b[0])]
    for t in reversed(range(CHUNK)):
        filled.append(b[t] + _passed(factors[t].view(()), filled[-1], cut[t]))
    return [torch.stack(filled[:0:-1])[:steps]]


_BACKWARDS: Kernels = (_summary, _filled)
_FORWARDS: Kernels = (_summary_forwards, _filled_forwards)


def _passed(factor: Tensor, x: Tensor, cut: Tensor) -> Tensor:
    return torch.where(cut, 0.0, (factor * x).to(x.dtype))


def _product(factors: Sequence[Tensor], cut: Tensor) -> tuple[Tensor, Tensor]:
    """All factors of a chunk in one, nothing if it is cut, and whether it is."""
    factor, stopped = factors[0], cut[:, 0]
    if factor.is_cuda:  # where nobody looks whether it is beyond one
        factor = factor.double()
    for t in range(1, CHUNK):
        factor, stopped = factor * factors[t], stopped | cut[:, t]
    if factor.dim():
        factor = torch.where(stopped, 0.0, factor)
    return bounded(factor) if factor.is_cuda else factor, stopped


def _factors(a: Tensor) -> Sequence[Tensor]:
    return chunks(a, 0.0).unbind(-1) if a.dim() else [a] * CHUNK


def chunks(x: Tensor, filling: float) -> Tensor:
    return pad(x, (0, -x.shape[0] % CHUNK), value=filling).view(-1, CHUNK)


def _empty(b: Tensor, a: Tensor, done: Tensor | None = None, terminated: Tensor | None = None) -> Tensor:
    return torch.empty_like(b, memory_format=torch.contiguous_format)


def _mapped(operator: Any, info: Any, in_dims: tuple[int | None, ...], *tensors: Any) -> tuple[Tensor, int]:
    return operator(*in_front(info.batch_size, in_dims, tensors)), 0


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:], output)


def _adjoint(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
    a, done, terminated, x = ctx.saved_tensors
    db = scan_forwards(upstream, a, done, terminated)
    return db, factor_gradient(db, x, a, either(done, terminated)) if ctx.needs_input_grad[1] else None, None, None


def _adjoint_forwards(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
    a, done, terminated, x = ctx.saved_tensors
    db = scan(upstream, a, done, terminated)
    return db, factor_gradient(x, db, a, either(done, terminated)) if ctx.needs_input_grad[1] else None, None, None


# Not by `library.custom_op`, whose checks of every call cost as much as a short scan.
_library = library.Library("offline_losses", "FRAGMENT")  # type: ignore[no-untyped-call]
for _name, _kernels in {"scan": _BACKWARDS, "scan_forwards": _FORWARDS}.items():
    _schema = f"{_name}(Tensor b, Tensor a, Tensor? done=None, Tensor? terminated=None) -> Tensor"
    _library.define(_schema, tags=torch.Tag.pt2_compliant_tag)  # type: ignore[no-untyped-call]
    _library.impl(_name, partial(_scan, _kernels), "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    library.register_fake(f"offline_losses::{_name}", _empty, lib=_library)
scan, scan_forwards = torch.ops.offline_losses.scan.default, torch.ops.offline_losses.scan_forwards.default
library.register_vmap("offline_losses::scan", partial(_mapped, scan), lib=_library)
library.register_vmap("offline_losses::scan_forwards", partial(_mapped, scan_forwards), lib=_library)
library.register_autograd("offline_losses::scan", _adjoint, setup_context=_save, lib=_library)
library.register_autograd("offline_losses::scan_forwards", _adjoint_forwards, setup_context=_save, lib=_library)
