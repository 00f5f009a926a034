"""What a formula asks of a DTensor, whose rows are spread over processes; without one nothing of it is loaded."""

from __future__ import annotations

from torch import Tensor


def is_sharded(x: Tensor) -> bool:
    return hasattr(x, "placements")


def beside(constant: Tensor, like: Tensor) -> Tensor:
    """A constant that is the same on every process, as a tensor that goes with another."""
    if not is_sharded(like):
        return constant
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh  # type: ignore[attr-defined]
    return DTensor.from_local(constant, mesh, [Replicate()] * mesh.ndim, run_check=False)


def added_up(x: Tensor) -> Tensor:
    """A sum of which each process has a part, as the sum on every process; what is no such sum as it is."""
    if not is_sharded(x):
        return x
    from torch.distributed.tensor import Replicate

    placements = [Replicate() if place.is_partial() else place for place in x.placements]  # type: ignore[attr-defined]
    return x.redistribute(placements=placements)  # type: ignore[attr-defined, no-any-return]


def whole(x: Tensor) -> Tensor:
    """All rows on every process, as a plain tensor, for what ranks them together."""
    return x.full_tensor() if is_sharded(x) else x  # type: ignore[attr-defined]


def shared_out(x: Tensor, like: Tensor) -> Tensor:
    """What every process has made of the whole, each with its own rows."""
    return beside(x, like).redistribute(placements=like.placements) if is_sharded(like) else x  # type: ignore[attr-defined]
