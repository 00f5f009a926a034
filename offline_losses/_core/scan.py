r"""The recurrence $x_t = b_t + a_t x_{t+1}$ without a loop over time, by halves and by chunks.

By halves, two neighboring steps are one step of half as long a sequence,
$x_t = (b_t + a_t b_{t+1}) + a_t a_{t+1} x_{t+2}$. Solving the even steps that way and putting them into the odd ones
takes $2T$ multiplications in $\log_2 T$ levels, with the rounding error of a tree sum.

Compiled code does the same with chunks of sixteen steps in place of two: one kernel tells what each chunk makes of the
value after it, the recurrence over the chunks is solved likewise, and a second kernel fills them. A few kernels serve
every length, and no loop over time is unrolled. To a compiler they are one operator, `offline_losses::scan`, whose
gradient is another, the recurrence forwards in time, `offline_losses::scan_forwards`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, library
from torch.nn.functional import pad

from offline_losses._core.tracing import run_kernel, takes_operators

CHUNK = 16
"""Steps that one kernel takes in a row."""


class NoCode(Exception):
    """No generated code for a kernel."""


Kernel: TypeAlias = Callable[..., list[Tensor]]
Kernels: TypeAlias = tuple[Kernel, Kernel]


def solve(b: Tensor, a: Tensor, done: Tensor | None, terminated: Tensor | None) -> Tensor:
    """The recurrence, `a` being of `b`'s shape or 0-d."""
    if takes_operators():
        x: Tensor = scan(b, a, done, terminated)
        return x
    return _halved(b, a, done, terminated)


def _halved(b: Tensor, a: Tensor, done: Tensor | None, terminated: Tensor | None) -> Tensor:
    cut = torch.zeros_like(b, dtype=torch.bool) if done is None else _either(done, terminated)
    return _halve(b, torch.where(cut, 0.0, a), cut)


def _either(done: Tensor, terminated: Tensor | None) -> Tensor:
    return done if terminated is None else done | terminated


def _halve(b: Tensor, a: Tensor, cut: Tensor) -> Tensor:
    steps = b.shape[-1]
    if steps == 1:
        return b
    pairs = steps // 2
    (b0, b1), (a0, a1), (c0, c1) = _halves(b), _halves(a), _halves(cut)
    joined = b0[..., :pairs] + _step(a0[..., :pairs], b1, c0[..., :pairs])
    even = _halve(
        torch.cat([joined, b0[..., pairs:]], -1),
        torch.cat([_step(a0[..., :pairs], a1, c0[..., :pairs]), a0[..., pairs:]], -1),
        torch.cat([c0[..., :pairs] | c1, c0[..., pairs:]], -1),
    )
    following = torch.cat([even[..., 1:], torch.zeros_like(b[..., : 2 * pairs + 1 - steps])], -1)
    odd = b1 + _step(a1, following, c1)
    woven = torch.stack([even[..., :pairs], odd], -1).flatten(-2)
    return torch.cat([woven, even[..., pairs:]], -1)


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 0::2], x[..., 1::2]


def _step(a: Tensor, x: Tensor, cut: Tensor) -> Tensor:
    return a * torch.where(cut, 0.0, x)


def _scan(
    kernels: Kernels, b: Tensor, a: Tensor, done: Tensor | None = None, terminated: Tensor | None = None
) -> Tensor:
    """Backwards in time, or forwards as gradients do: a cut keeps the step after it from what it had."""
    if b.numel() == 0 or b.shape[-1] == 1:
        return b.clone(memory_format=torch.contiguous_format)
    try:
        return _in_chunks(kernels, b, a, done, terminated)
    except NoCode:
        if kernels is _BACKWARDS:
            return _halved(b, a, done, terminated)
        flags = [x if x is None else _turned(x) for x in (done, terminated)]
        return _halved(b.flip(-1), _turned(a) if a.dim() else a, *flags).flip(-1)


def _in_chunks(kernels: Kernels, b: Tensor, a: Tensor, done: Tensor | None, terminated: Tensor | None) -> Tensor:
    """All rows as one sequence, cut where each of them ends."""
    if done is None:
        cut = torch.zeros_like(b, dtype=torch.bool)
    else:
        cut = done.clone() if terminated is None else done | terminated
    cut[..., -1] = True
    return _chunked(kernels, b.flatten(), a.flatten() if a.dim() else a, cut.flatten()).view(b.shape)


def _turned(x: Tensor) -> Tensor:
    """The factor or cut of the step before each, backwards."""
    return pad(x[..., :-1], (1, 0)).flip(-1)


def _chunked(kernels: Kernels, b: Tensor, a: Tensor, cut: Tensor) -> Tensor:
    steps = b.shape[0]
    if steps == 1:
        return b
    if steps <= CHUNK and kernels is _FORWARDS:
        return _chunked(_BACKWARDS, b.flip(0), _turned(a) if a.dim() else a, _turned(cut)).flip(0)
    if steps <= CHUNK:
        return _run(_last, b, a, cut)[0]
    summary, filled = kernels
    return _run(filled, b, a, cut, _chunked(_BACKWARDS, *_run(summary, b, a, cut)))[0]


def _run(kernel: Kernel, *tensors: Tensor) -> Sequence[Tensor]:
    tensors = tuple(x.contiguous() for x in tensors)  # the flattened view of a strided tensor is strided
    results = run_kernel(kernel, *tensors)
    if results is None:
        raise NoCode
    return results


def _summary(b: Tensor, a: Tensor, cut: Tensor) -> list[Tensor]:
    """What a chunk makes of the value after it: it adds the first to the second times it, unless the third is True.

    The second is one number for all chunks if `a` is one.
    """
    b, cut, factors = _chunks(b, 0.0), _chunks(cut, True), _factors(a)
    x = torch.zeros_like(b[:, 0])
    for t in reversed(range(CHUNK)):
        x = b[:, t] + _passed(factors[t], x, cut[:, t])
    return [x, *_product(factors, cut)]


def _filled(b: Tensor, a: Tensor, cut: Tensor, first: Tensor) -> list[Tensor]:
    """Every step of a chunk, from the first values of all chunks."""
    steps = b.shape[0]
    b, cut, factors = _chunks(b, 0.0), _chunks(cut, True), _factors(a)
    x, filled = pad(first[1:], (0, 1)), []
    for t in reversed(range(CHUNK)):
        x = b[:, t] + _passed(factors[t], x, cut[:, t])
        filled.append(x)
    return [torch.stack(filled[::-1], -1).flatten()[:steps]]


def _summary_forwards(b: Tensor, a: Tensor, cut: Tensor) -> list[Tensor]:
    """What a chunk passes on, in the same way from what is passed to it; the last chunk comes first."""
    b, cut, factors = _chunks(b, 0.0), _chunks(cut, True), _factors(a)
    passed = torch.zeros_like(b[:, 0])
    for t in range(CHUNK):
        passed = _passed(factors[t], b[:, t] + passed, cut[:, t])
    return [x.flip(0) if x.dim() else x for x in (passed, *_product(factors, cut))]


def _filled_forwards(b: Tensor, a: Tensor, cut: Tensor, passed: Tensor) -> list[Tensor]:
    """Every step of a chunk, from what all chunks pass on, the last chunk first."""
    steps = b.shape[0]
    b, cut, factors = _chunks(b, 0.0), _chunks(cut, True), _factors(a)
    passed, filled = pad(passed[1:], (0, 1)).flip(0), []
    for t in range(CHUNK):
        filled.append(b[:, t] + passed)
        passed = _passed(factors[t], filled[t], cut[:, t])
    return [torch.stack(filled, -1).flatten()[:steps]]


def _last(b: Tensor, a: Tensor, cut: Tensor) -> list[Tensor]:
    """Every step of one chunk that nothing follows."""
    steps = b.shape[0]
    b, cut, factors = _chunks(b, 0.0)[0], _chunks(cut, True)[0], _factors(a)
    filled = [torch.zeros_like(b[0])]
    for t in reversed(range(CHUNK)):
        filled.append(b[t] + _passed(factors[t].view(()), filled[-1], cut[t]))
    return [torch.stack(filled[:0:-1])[:steps]]


_BACKWARDS: Kernels = (_summary, _filled)
_FORWARDS: Kernels = (_summary_forwards, _filled_forwards)


def _passed(factor: Tensor, x: Tensor, cut: Tensor) -> Tensor:
    return torch.where(cut, 0.0, factor * x)


def _product(factors: Sequence[Tensor], cut: Tensor) -> tuple[Tensor, Tensor]:
    """All factors of a chunk in one, and whether it is cut anywhere."""
    factor, stopped = factors[0], cut[:, 0]
    for t in range(1, CHUNK):
        factor, stopped = factor * factors[t], stopped | cut[:, t]
    return factor, stopped


def _factors(a: Tensor) -> Sequence[Tensor]:
    return _chunks(a, 0.0).unbind(-1) if a.dim() else [a] * CHUNK


def _chunks(x: Tensor, filling: float) -> Tensor:
    return pad(x, (0, -x.shape[0] % CHUNK), value=filling).view(-1, CHUNK)


def _empty(b: Tensor, a: Tensor, done: Tensor | None = None, terminated: Tensor | None = None) -> Tensor:
    return torch.empty_like(b, memory_format=torch.contiguous_format)


def _mapped(operator: Any, info: Any, in_dims: tuple[int | None, ...], *tensors: Any) -> tuple[Tensor, int]:
    """The mapped axis first, in every tensor that there is."""
    mapped: list[Any] = [
        x if x is None else x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(tensors, in_dims, strict=True)
    ]
    b, a, *flags = mapped
    return operator(b, a if a.dim() == b.dim() else a.view(-1, *[1] * (b.dim() - 1)).expand_as(b), *flags), 0


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:], output)


def _adjoint(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
    a, done, terminated, x = ctx.saved_tensors
    db = scan_forwards(upstream, a, done, terminated)
    return db, _slope(db, x, *ctx.saved_tensors[:3]) if ctx.needs_input_grad[1] else None, None, None


def _adjoint_forwards(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
    a, done, terminated, x = ctx.saved_tensors
    db = scan(upstream, a, done, terminated)
    return db, _slope(x, db, *ctx.saved_tensors[:3]) if ctx.needs_input_grad[1] else None, None, None


def _slope(early: Tensor, late: Tensor, a: Tensor, done: Tensor | None, terminated: Tensor | None) -> Tensor:
    """The gradient of the factors, each of which joins the first of a step to the second of the next one."""
    late = pad(late[..., 1:], (0, 1))
    each = early * (late if done is None else torch.where(_either(done, terminated), 0.0, late))
    return each if a.dim() else each.sum()


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
