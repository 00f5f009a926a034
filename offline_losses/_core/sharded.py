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


def whole(x: Tensor) -> Tensor:
    """All rows on every process, as a plain tensor, for what ranks them together."""
    return x.full_tensor() if is_sharded(x) else x  # type: ignore[attr-defined]


def shared_out(x: Tensor, like: Tensor) -> Tensor:
    """What every process has made of the whole, each with its own rows."""
    return beside(x, like).redistribute(placements=like.placements) if is_sharded(like) else x  # type: ignore[attr-defined]
