"""What one process makes of its part of a tensor, and of what the others tell it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from comparison import close
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from offline_losses._core import ranks
from offline_losses._core.ranks import Part, added, check_range, joined, part_of
from offline_losses._core.sharded import added_up, beside, is_sharded, shared_out, whole
from offline_losses._core.spread import as_rows_of, here


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """Of one process, along two axes."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1, 1), mesh_dim_names=("a", "b"))
    torch.distributed.destroy_process_group()


def spread(x: Tensor, mesh: DeviceMesh, *placements: Placement) -> DTensor:
    return DTensor.from_local(x, mesh, placements, run_check=False)


def test_plain_tensors_stay_as_they_are() -> None:
    """The very objects."""
    x, y = torch.rand(2, 3)
    assert not is_sharded(x)
    assert beside(x, y) is added_up(x) is whole(x) is shared_out(x, y) is x
    assert as_rows_of(x, y) is x
    assert here("f", x, y, x, None, 1.0, None, "group") == (x, y, x, None, 1.0, None, "group")


def test_parts_become_what_they_are_parts_of(mesh: DeviceMesh) -> None:
    """Only sums of parts are added up; a constant is whole everywhere; the whole is divided as another is."""
    x = torch.rand(4)
    like = spread(x, mesh, Partial(), Shard(0))
    assert is_sharded(like)
    assert added_up(like).placements == (Replicate(), Shard(0))
    assert added_up(like).to_local().equal(x)
    assert beside(x, like).placements == (Replicate(), Replicate())
    assert type(whole(like)) is Tensor
    assert whole(like).equal(x)
    rows = spread(x, mesh, Shard(0), Replicate())
    assert shared_out(x, rows).placements == rows.placements
    assert shared_out(x, rows).to_local().equal(x)


def test_what_this_rank_has_begins_where_the_last_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the others' sizes."""
    monkeypatch.setattr(ranks, "_gathered", lambda mine, group: torch.tensor([3, int(mine), 2]))
    monkeypatch.setattr(torch.distributed, "get_rank", lambda group: 1)
    group, first, classes = part_of(torch.zeros(4, 2), "group")
    assert (group, int(first), int(classes)) == ("group", 3, 9)


@pytest.mark.parametrize("part", [None, Part(None, torch.tensor(3), torch.tensor(5))])
def test_actions_are_classes_of_all_ranks(part: Part | None) -> None:
    """From the first to the last; those of this rank are numbered from its own first."""
    first = 0 if part is None else 3
    check_range("f", torch.tensor([0, 4]) - first, 5, part)
    check_range("f", torch.zeros(0, dtype=torch.int64), 5, part)
    check_range("f", torch.tensor([9], device="meta"), 5, part)
    for wrong in (-1, 5):
        with pytest.raises(ValueError, match=rf"f: action: expected classes in \[0, 5\), got {wrong}\. Number"):
            check_range("f", torch.tensor([0, wrong]) - first, 5, part)


def test_ranks_join_what_they_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest logit, the sum of exponentials beside it, and the logit of whoever has the action."""
    logits = torch.tensor([[1.0, 5.0, -3.0], [-torch.inf] * 3]).double()  # [N, V]; of the second row none can be
    mine, other = logits[:, :1], logits[:, 1:]
    tops = [x.amax(1) for x in (mine, other)]
    sums = [(x - top.clamp(min=-99).unsqueeze(1)).exp().sum(1) for x, top in zip((mine, other), tops, strict=True)]
    none = torch.full((2,), -torch.inf).double()
    told = torch.stack([tops[1], sums[1], other[:, 1]])
    monkeypatch.setattr(ranks, "_gathered", lambda x, group: torch.stack([x, told]))
    largest, summed, chosen = joined(tops[0], sums[0], none, None)
    assert largest.tolist() == [5.0, -torch.inf]
    close(largest[0] + summed[0].log(), logits[0].logsumexp(0))
    assert summed[1] == 0
    assert chosen.tolist() == [-3.0, -torch.inf]


def test_ranks_add_their_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the hidden states, and of the scale if there is one, in one message."""
    sent: list[Tensor] = []

    def all_reduce(x: Tensor, group: Any) -> None:
        sent.append(x)
        x.mul_(3)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    x = torch.arange(6.0).view(2, 3)
    by_hidden, none = added(x.clone(), None, None)
    assert by_hidden.equal(3 * x)
    assert none is None
    by_hidden, by_scale = added(x.clone(), torch.tensor(2.0), None)
    assert by_hidden.equal(3 * x)
    assert by_scale == 6.0
    assert len(sent) == 2


def test_all_ranks_are_gathered(mesh: DeviceMesh) -> None:
    """Stacked along a first axis."""
    x = torch.rand(2, 3)
    assert ranks._gathered(x, None).equal(x.unsqueeze(0))


Given = tuple[Placement, ...]
R, P = Replicate(), Partial()


@pytest.mark.parametrize(
    ("hidden", "head", "classes", "by_head", "axis"),
    [
        ((Shard(0), R), (R, R), (R, R), (P, R), None),
        ((Shard(0), Shard(1)), (R, R), (R, R), (P, P), None),
        ((Shard(0), R), (R, Shard(0)), (R, Shard(0)), (P, Shard(0)), 1),
        ((R, Shard(0)), (Shard(0), Shard(0)), (Shard(0), R), (Shard(0), P), 0),
        ((R, R), (Shard(0), Shard(0)), (Shard(0), R), (Shard(0), R), 0),
        ((Shard(2), R), (Shard(1), R), (R, R), (R, R), None),
        ((Shard(0), R), (Shard(0), R), (R, R), (P, R), None),
    ],
)
def test_each_process_projects_its_part(
    hidden: Given, head: Given, classes: Given, by_head: Given, axis: int | None, mesh: DeviceMesh,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Its rows, which add up in the gradient of the head, or its classes; on one axis of the mesh at most."""
    taken: list[tuple[Any, Any]] = []
    to_local = DTensor.to_local

    def noted(x: DTensor, *, grad_placements: Any) -> Tensor:
        taken.append((x.placements, tuple(grad_placements)))
        return to_local(x, grad_placements=grad_placements)

    monkeypatch.setattr(DTensor, "to_local", noted)
    h, w, action = torch.rand(2, 3, 4), torch.rand(5, 4), torch.ones(2, 3, dtype=torch.int64)
    bias, mask = torch.rand(5), action.bool()
    for place, temperature in enumerate((torch.rand(2, 3), torch.tensor(2.0), 0.5)):
        taken.clear()
        found = here("f", spread(h, mesh, *hidden), spread(w, mesh, *head), action, bias, temperature, mask, None)
        rows = tuple(x if x in (Shard(0), Shard(1)) else R for x in hidden)
        summed = tuple(P if x != R else R for x in rows)
        number = {0: [(rows, rows)], 1: [((R, R), summed)], 2: []}[place]
        assert taken == [*number, (rows, rows), (classes, by_head), (rows, rows), (classes, by_head), (rows, rows)]
        assert found.group is (None if axis is None else mesh.get_group(axis))
        for x, y in zip(found, (h, w, action, bias, temperature, mask), strict=False):
            assert not is_sharded(x) if isinstance(x, Tensor) else x == 0.5
            torch.testing.assert_close(x, y)


def test_plain_rows_beside_a_divided_head(mesh: DeviceMesh) -> None:
    """Are the same everywhere; without a bias and a mask there is none."""
    h, w, action = torch.rand(2, 4), torch.rand(5, 4), torch.ones(2, dtype=torch.int64)
    found = here("f", h, spread(w, mesh, R, Shard(0)), action, None, 1.0, None, None)
    assert found.hidden.equal(h)
    assert found.bias is found.mask is None
    assert found.group is mesh.get_group(1)


def test_a_group_or_another_mesh_beside_it_is_refused(mesh: DeviceMesh) -> None:
    """The mesh says who has what."""
    h, w, action = torch.rand(2, 4), torch.rand(5, 4), torch.ones(2, dtype=torch.int64)
    rows = spread(h, mesh, Shard(0), R)
    with pytest.raises(ValueError, match="f: group: expected None beside DTensors, whose mesh it is, got a process"):
        here("f", rows, w, action, None, 1.0, None, mesh.get_group(0))
    other = spread(w, init_device_mesh("cpu", (1,)), R)
    with pytest.raises(ValueError, match="f: head: expected DTensors of one mesh, got several"):
        here("f", rows, other, action, None, 1.0, None, None)


def test_what_is_found_lies_where_the_rows_do(mesh: DeviceMesh) -> None:
    """With the shape of the whole; what is divided along the last axis of the hidden states is whole."""
    x = torch.rand(2, 3)
    found = as_rows_of(x, spread(torch.rand(2, 3, 4), mesh, Shard(1), Shard(2)))
    assert found.placements == (Shard(1), R)  # type: ignore[attr-defined]
    assert found.shape == (2, 3)
    assert found.stride() == (3, 1)
    assert whole(found).equal(x)
