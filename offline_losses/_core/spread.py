"""A projection of DTensors: each process projects its own rows, or onto its own classes, and nothing is gathered.

On each axis of the mesh the rows are divided, or else the classes of the head may be, which is `group` by another name.
What is divided otherwise is first made whole there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from offline_losses._core.checks import Knob
from offline_losses._core.errors import refuse
from offline_losses._core.sharded import is_sharded


class Here(NamedTuple):
    """What this process has of the arguments, as plain tensors, and who has the other classes."""

    hidden: Tensor
    head: Tensor
    action: Tensor
    bias: Tensor | None
    temperature: Knob
    mask: Tensor | None
    group: Any


def here(
    function: str,
    hidden: Tensor,  # [*batch, D]
    head: Tensor,  # [V, D]
    action: Tensor,  # [*batch]
    bias: Tensor | None,  # [V]
    temperature: Knob,
    mask: Tensor | None,  # [*batch]
    group: Any,
) -> Here:
    """Of DTensors the part of this process, whose gradient is that of the whole; of plain tensors all."""
    given = [hidden, head, action, bias, temperature, mask]
    sharded: list[Any] = [x for x in given if isinstance(x, Tensor) and is_sharded(x)]
    if not sharded:
        return Here(hidden, head, action, bias, temperature, mask, group)
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    mesh = sharded[0].device_mesh
    if group is not None:
        refuse(
            ValueError, function, "group", "None beside DTensors, whose mesh it is", "a process group", "Leave it out."
        )
    if any(x.device_mesh != mesh for x in sharded):
        refuse(ValueError, function, "head", "DTensors of one mesh", "several", "Distribute all on the mesh of hidden.")
    rows = _placements(hidden, hidden.ndim - 1, mesh.ndim)
    classes: list[Any] = [Replicate()] * mesh.ndim
    if is_sharded(head):
        own = [i for i, x in enumerate(head.placements) if x == Shard(0) and rows[i] == Replicate()]  # type: ignore[attr-defined]
        for i in own[:1]:
            classes[i], group = Shard(0), mesh.get_group(i)

    def part(x: Tensor, placements: list[Any], by: list[Any]) -> Tensor:
        if not is_sharded(x):
            x = DTensor.from_local(x, mesh, [Replicate()] * mesh.ndim, run_check=False)
        found: Tensor = x.redistribute(placements=placements).to_local(grad_placements=by)  # type: ignore[attr-defined]
        return found

    by_shared = [Partial() if x != Replicate() else y for x, y in zip(rows, classes, strict=True)]
    by_number = [Partial() if x != Replicate() else x for x in rows]
    if isinstance(temperature, Tensor):
        whole = [Replicate()] * mesh.ndim
        temperature = part(temperature, rows, rows) if temperature.ndim else part(temperature, whole, by_number)
    return Here(
        part(hidden, rows, rows),
        part(head, classes, by_shared),
        part(action, rows, rows),
        None if bias is None else part(bias, classes, by_shared),
        temperature,
        None if mask is None else part(mask, rows, rows),
        group,
    )


def as_rows_of(x: Tensor, hidden: Tensor) -> Tensor:
    """What this process found of its rows, `[*batch]`, as a DTensor where the hidden states are one."""
    if not is_sharded(hidden):
        return x
    from torch.distributed.tensor import DTensor

    mesh, shape = hidden.device_mesh, hidden.shape[:-1]  # type: ignore[attr-defined]
    placements = _placements(hidden, hidden.ndim - 1, mesh.ndim)
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(x, mesh, placements, run_check=False, shape=shape, stride=stride)


def _placements(x: Tensor, axes: int, dimensions: int) -> list[Any]:
    """Where its first axes are, on each axis of the mesh; what is divided otherwise is whole."""
    from torch.distributed.tensor import Replicate, Shard

    given = x.placements if is_sharded(x) else [Replicate()] * dimensions  # type: ignore[attr-defined]
    return [y if isinstance(y, Shard) and y.dim < axes else Replicate() for y in given]
