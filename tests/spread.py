"""Every function on two processes, its batch spread over them as DTensors, beside the same on one. A program itself.

`python tests/spread.py results.json` starts the processes, and writes for each case what was wrong, if anything, and
which collectives it took.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ledger import CASES, SIZES, Case, Index, leaves, total
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import offline_losses

PROCESSES = 2
WAYS = {"even": (4,), "uneven": (5,), "mask": (5,)}
"""How the rows are spread, and the batch."""


def spread(x: Tensor, mesh: DeviceMesh, axis: int | None) -> Tensor:
    """A tensor whose rows on this axis are divided among the processes, or that every process has."""
    return distribute_tensor(x, mesh, [Replicate() if axis is None else Shard(axis)], src_data_rank=None)


def whole(x: Tensor) -> Tensor:
    """All of it."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def counted(mode: CommDebugMode) -> dict[str, int]:
    """How often each collective was called."""
    return {str(name).rsplit(".", 1)[-1]: number for name, number in mode.get_comm_counts().items()}


def arguments(case: Case, way: str, mesh: DeviceMesh) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same arguments twice: on one process, and spread."""
    alone: dict[str, Any] = {}
    among: dict[str, Any] = {}
    for name, x in case.build(WAYS[way]).items():
        alone[name] = among[name] = x
        if isinstance(x, Tensor):
            argument = case.arguments[name]
            batched = getattr(argument, "batched", True) and not isinstance(argument, Index)
            among[name] = spread(x, mesh, int(case.leads(argument)) if batched else None)
            if x.is_floating_point():
                alone[name], among[name] = x.clone().requires_grad_(), among[name].requires_grad_()
    if way == "mask":
        mask = torch.arange(5) % 3 > 0
        if axes := case.row.tail_axes:
            mask = mask.unsqueeze(-1).expand(5, *(SIZES[axis] for axis in axes)).contiguous()
        shape = case.shape((5,))
        mask = mask.expand(shape).contiguous()
        alone["mask"], among["mask"] = mask, spread(mask, mesh, len(shape) - 1 - len(case.row.tail_axes))
    return alone, among


def compare(case: Case, way: str, mesh: DeviceMesh) -> dict[str, Any]:
    """Values and gradients of the two, and the collectives of the second."""
    alone, among = arguments(case, way, mesh)
    expected = leaves(case.row.function(**alone))
    with CommDebugMode() as forwards:
        actual = leaves(case.row.function(**among))
    for one, other in zip(actual, expected, strict=True):
        assert isinstance(one, DTensor), "a result is no DTensor"
        torch.testing.assert_close(whole(one), other, rtol=1e-9, atol=1e-9)
    flowing = [x for x in expected if x.requires_grad]
    upstream = torch.autograd.grad(total(flowing), flowing, retain_graph=True) if flowing else ()
    given = [x for x in actual if x.requires_grad]
    assert len(given) == len(flowing)
    places = [[x if isinstance(x, Shard) else Replicate() for x in y.placements] for y in given]
    parts = [distribute_tensor(x, mesh, y, src_data_rank=None) for x, y in zip(upstream, places, strict=True)]
    with CommDebugMode() as backwards:
        if given:
            torch.autograd.backward(given, parts)
    if flowing:
        torch.autograd.backward(flowing, upstream)
    for name, x in alone.items():
        if isinstance(x, Tensor) and x.is_floating_point():
            zero = torch.zeros_like(x)
            one, other = (zero if y.grad is None else whole(y.grad) for y in (among[name], x))
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9, msg=lambda said, name=name: f"{name}: {said}")
    return {"forwards": counted(forwards), "backwards": counted(backwards)}


def compare_flat(name: str, split: int, mesh: DeviceMesh) -> dict[str, Any]:
    """A flat dataset `[N]` whose steps are spread, so that an episode may begin on one process and end on the next."""
    generator = torch.Generator().manual_seed(split)
    reward = torch.randint(0, 2, (23,), generator=generator).double()  # equal returns are common
    done = torch.rand(23, generator=generator) < 0.4
    function = getattr(offline_losses, name)
    for knobs in [{"fraction": 0.3}, {"fraction": 0.6, "by": "steps"}] if name == "return_filter" else [{}]:
        actual = function(spread(reward, mesh, 0), spread(done, mesh, 0), **knobs)
        torch.testing.assert_close(whole(actual), function(reward, done, **knobs))
    return {}


def attempt(function: Any, *given: Any) -> dict[str, Any]:
    """What it finds, or what went wrong."""
    try:
        found: dict[str, Any] = function(*given)
        return found
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}\n{traceback.format_exc()[-1500:]}"}


def run(rank: int, folder: str, path: str, names: list[str]) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", PROCESSES)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=PROCESSES, timeout=timedelta(seconds=60))
    mesh, found = init_device_mesh("cpu", (PROCESSES,)), {}
    for case in CASES:
        for way in WAYS if case.row.tail else ("even", "uneven"):
            if not names or case.row.name in names:
                found[f"{case}/{way}"] = attempt(compare, case, way, mesh)
    for name in ("return_filter", "reward_scale", "episode_return", "discounted_return"):
        for split in range(3):
            found[f"{name}/flat {split}"] = attempt(compare_flat, name, split, mesh)
    if rank == 0:
        Path(path).write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)  # Gloo's threads may still hold tensors, and abort an interpreter that is being finalized.


def main(path: str, *names: str) -> None:
    """Start them, and end with them."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(run, (folder, path, list(names)), nprocs=PROCESSES, start_method="spawn")


if __name__ == "__main__":
    main(*sys.argv[1:])
